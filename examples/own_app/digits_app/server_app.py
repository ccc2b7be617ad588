"""What the server does: Flower's own loop, with `FedRebasin` in the place of `FedAvg`."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from alignment import derive_spec
from digits_app import task
from strategies import FedRebasin, Recalibration

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Plays the rounds, and prints what each merge is worth."""
    config = context.run_config
    strategy = rebasin(bool(config["recalibrate"])) if config["strategy"] == "rebasin" else FedAvg()
    arrays = ArrayRecord(task.network().state_dict())
    result = strategy.start(grid, arrays, num_rounds=int(str(config["num-server-rounds"])))
    for number, metrics in result.evaluate_metrics_clientapp.items():
        print(f"round {number}: accuracy of the merge {metrics['accuracy']:.3f}")


def rebasin(recalibrate: bool) -> FedRebasin:
    """Aligns every node's network to that of the node with most samples, then averages."""
    model = task.network()
    return FedRebasin(
        spec=derive_spec(model, (task.EXAMPLE,)),
        reference="largest",
        recalibration=Recalibration(model, task.EXAMPLE) if recalibrate else None,
    )
