"""Line charts as SVG: numbers in, text out."""

import html
import math
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 36, 44
COLOUR = "#0b6e99"


@dataclass(frozen=True)
class Panel:
    """One chart: a line through points, x on a logarithmic axis, y from 0."""

    title: str
    x_title: str
    y_title: str
    points: list  # (x, y)


def nice_step(most, n_steps=4):
    """A step of 1, 2 or 5 times a power of ten, so that about n_steps of them reach `most`."""
    rough = most / n_steps
    power = 10 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def text(x, y, content, anchor="middle", size=11, more=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{more}>'
            f"{html.escape(content)}</text>")


def panel_lines(panel, offset):
    points = sorted(panel.points)
    (first_x, _), (last_x, _) = points[0], points[-1]
    step = nice_step(max(y for _, y in points))
    n_steps = math.ceil(max(y for _, y in points) / step)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x, y):
        share = math.log(x / first_x) / math.log(last_x / first_x)
        return offset + LEFT + width * share, TOP + height * (1 - y / (n_steps * step))

    middle = offset + LEFT + width / 2
    lines = [text(middle, 20, panel.title, size=13), text(middle, HEIGHT - 8, panel.x_title),
             text(offset + 14, TOP + height / 2, panel.y_title,
                  more=f' transform="rotate(-90 {offset + 14} {TOP + height / 2:.1f})"')]
    for i in range(n_steps + 1):
        left, y = at(first_x, i * step)
        lines += [f'<line x1="{left:.1f}" y1="{y:.1f}" x2="{left + width:.1f}" y2="{y:.1f}" '
                  'stroke="#ddd"/>', text(left - 6, y + 4, f"{i * step:.6g}", "end")]
    places = [at(x, y) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    lines.append(f'<polyline points="{path}" fill="none" stroke="{COLOUR}" stroke-width="2"/>')
    for (x, y), (value, _) in zip(places, points):
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOUR}"/>',
                  text(x, HEIGHT - BOTTOM + 16, str(value))]
    return lines


def svg(panels):
    """The panels beside each other."""
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(panels)}" '
             f'height="{HEIGHT}" font-family="sans-serif">',
             '<rect width="100%" height="100%" fill="white"/>']
    for i, panel in enumerate(panels):
        lines += panel_lines(panel, i * WIDTH)
    return "\n".join([*lines, "</svg>"]) + "\n"
