"""Pages as Chromium shows them, without a window."""

import html
import json
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# Measures the page once it stands, and tells the page that it is framed in.
PROBE = """
<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(each => each.open = true);
  const solid = document.createElement("div");
  solid.style.background = "Canvas";
  document.body.append(solid);
  const paper = getComputedStyle(solid).backgroundColor;
  solid.remove();
  const texts = [...document.querySelectorAll("h1,h2,h3,p,th,td,summary,figcaption,.card,svg text")]
    .map(node => ({node, box: node.getBoundingClientRect(), style: getComputedStyle(node)}))
    .filter(each => each.box.width > 1 && each.box.height > 1);
  const overlaps = [];
  for (let i = 0; i < texts.length; i++) for (let j = i + 1; j < texts.length; j++) {
    const [a, b] = [texts[i], texts[j]];
    if (a.node.contains(b.node) || b.node.contains(a.node)) continue;
    const x = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
    const y = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
    if (x > 1 && y > 1) overlaps.push([a.node.textContent.trim(), b.node.textContent.trim()]);
  }
  const outside = texts.filter(each => each.box.right > innerWidth + 1 || each.box.left < -1)
    .map(each => each.node.textContent.trim());
  const colour = each => each.node.namespaceURI.includes("svg") ? each.style.fill : each.style.color;
  const found = {
    width: innerWidth, scroll: document.documentElement.scrollWidth, paper, overlaps, outside, count: texts.length,
    colours: [...new Set(texts.map(colour))], dark: matchMedia("(prefers-color-scheme: dark)").matches,
    small: Math.min(...texts.map(each => parseFloat(each.style.fontSize))),
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script>
"""
# A window is never as narrow as a telephone; a frame is.
FRAME = """
<meta name="color-scheme" content="light dark">
<iframe src="{source}" style="width: {width}px; height: 900px; border: 0"></iframe>
<script>
addEventListener("message", event => {{
  const note = document.createElement("pre");
  note.id = "found";
  note.textContent = event.data;
  document.body.append(note);
}});
</script>
"""


@dataclass(frozen=True)
class Window:
    """How the page is looked at."""

    width: int
    is_dark: bool

    def chromium(self, *arguments: str, height: int = 900) -> str:
        """What Chromium prints, within a minute."""
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--no-first-run", "--disable-extensions", "--force-device-scale-factor=1"]
        command += [f"--blink-settings=preferredColorScheme={int(not self.is_dark)}"]
        command += [f"--window-size={self.width},{height}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout

    @cache  # noqa: B019 - windows are few, and live as long as the tests
    def measure(self, page: Path) -> dict[str, Any]:
        """What the probe finds in a copy of the page."""
        probed = page.with_name(f"probed-{page.name}")
        probed.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
        frame = page.with_name(f"framed-{page.name}")
        frame.write_text(FRAME.format(source=probed.name, width=self.width), encoding="utf-8")
        said = self.chromium("--virtual-time-budget=5000", "--dump-dom", frame.as_uri())
        found = re.search(r'<pre id="found">(.*?)</pre>', said, re.DOTALL)
        assert found, said[-2000:]
        return json.loads(html.unescape(found[1]))

    def screenshot(self, page: Path, height: int) -> Path:
        """The page as a picture beside it."""
        picture = page.with_name(f"{page.stem}-{self.width}-{'dark' if self.is_dark else 'light'}.png")
        self.chromium(f"--screenshot={picture}", page.as_uri(), height=height)
        return picture


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as the browser tells them (WCAG 2.2, 1.4.3): 1 to 21, which is black on white."""
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour: str) -> float:
    """The relative luminance of ``rgb(…)``, or of ``color(srgb …)`` with its opacity left out."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", colour)[:3]]
    parts = [number / 255 for number in numbers] if colour.startswith("rgb") else numbers
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
