"""What a node does."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.utils.data import DataLoader, TensorDataset

from digits_app import task
from strategies.recalibration import recalibration_reply

app = ClientApp()


def data_of(context: Context) -> tuple[TensorDataset, TensorDataset]:
    """This node's training and held-out samples."""
    return task.load_data(partition_of(context), int(context.node_config["num-partitions"]))


def partition_of(context: Context) -> int:
    """This node's number."""
    return int(context.node_config["partition-id"])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Trains: in round 1 from the node's own random start, later from the merge that was sent."""
    samples, _ = data_of(context)
    config = message.content.config_records["config"]
    first = int(str(config["server-round"])) == 1
    torch.manual_seed(partition_of(context))
    model = task.network()
    if not first:
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    task.train(model, samples, int(str(context.run_config["epochs"])), seed=partition_of(context))
    metrics = MetricRecord({"num-examples": len(samples)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


@app.query("recalibrate")
def recalibrate(message: Message, context: Context) -> Message:
    """BatchNorm moments of the merge on the node's training samples."""
    samples, _ = data_of(context)
    return recalibration_reply(task.network(), message, DataLoader(samples, batch_size=256))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The merge's accuracy on the node's held-out samples."""
    _, samples = data_of(context)
    model = task.network()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    metrics = MetricRecord({"accuracy": task.accuracy(model, samples), "num-examples": len(samples)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
