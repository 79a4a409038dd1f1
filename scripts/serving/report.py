"""The document of the serving benchmarks. Pure functions of the results."""

import statistics

import chart
import comparison

# Of a table's row: the figure, what it is called, its factor, and whether less of it is better.
CLOSED_LOOP_ROWS = (
    ("tokens_s", "tokens/s", 1.0, False),
    ("first_p50_s", "first token, p50, s", 1.0, True),
    ("first_p95_s", "first token, p95, s", 1.0, True),
    ("between_p50_s", "between tokens, p50, ms", 1e3, True),
    ("between_p95_s", "between tokens, p95, ms", 1e3, True))
LONG_PROMPT_ROWS = (
    ("before_p95_s", "between tokens, p95, before it, ms", 1e3, True),
    ("during_p95_s", "between tokens, p95, while it is computed, ms", 1e3, True),
    ("raised", "the second over the first", 1.0, True),
    ("during_tokens_s", "tokens/s of the streams meanwhile", 1.0, False),
    ("long_first_s", "its first token after, s", 1.0, True))
SHARED_ROWS = (
    ("first_s", "first request's first token, ms", 1e3, True),
    ("second_s", "second request's first token, ms", 1e3, True),
    ("sooner", "the first over the second", 1.0, False))
COORDINATOR_ROWS = (
    ("coordinator_percent", "processor time of the coordinator, % of a core", 1.0, True),
    ("added_s", "of a step, the rank does not compute, ms (mean)", 1e3, True),
    ("steps_s", "steps/s", 1.0, False))
MEMORY_ROWS = (
    ("minutes", "minutes", 1.0, True),
    ("n_requests", "requests", 1.0, False),
    ("n_cancelled", "of them cancelled by the client", 1.0, False),
    ("coordinator_mib", "coordinator at the end, MiB", 1.0, True),
    ("coordinator_mib_h", "coordinator, growth, MiB an hour", 1.0, True),
    ("ranks_mib", "ranks at the end, MiB", 1.0, True),
    ("ranks_mib_h", "ranks, growth, MiB an hour", 1.0, True))


def table(runs, rows):
    """Markdown lines: a column for each contestant, and the ratio to the first beside the others.
    """
    names = list(dict.fromkeys(run["name"] for run in runs))
    columns = comparison.engine_columns(names)
    heads = [""]
    for column in columns:
        heads += [column.name, *filter(None, [column.title])]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for what, text, scale, less_is_better in rows:
        row = [text]
        for column in columns:
            row += comparison.cells(runs, column, what, scale, less_is_better)
        lines.append(f"| {' | '.join(row)} |")
    return lines


def notes(runs):
    lines = []
    share = [run["result"]["coordinator_percent"] for run in runs
             if "coordinator_percent" in run["result"]]
    if share:
        lines.append(f"- trireme's coordinator took {comparison.spread(share, 1)} % of a core")
    for name in dict.fromkeys(run["name"] for run in runs):
        events = [run["result"]["events_per_token"] for run in runs
                  if run["name"] == name and "events_per_token" in run["result"]]
        if events and min(events) < 0.98:
            lines.append(f"- {name} sent {min(events):.2f} events for a token: its times between "
                         "tokens are times between events")
    return lines + [f"- not measured: {line}" for line in comparison.failures(runs)]


def against_fewer(results, more, fewer, dtype):
    """One line: the tokens per second of more clients over those of fewer, round by round."""
    lines = []
    for name in ("trireme", "llama.cpp"):
        of_more, of_fewer = (
            comparison.values_of(results.get(f"{scenario} {dtype}", []), name, "tokens_s")
            for scenario in (more, fewer))
        if of_more and of_fewer:
            cell = comparison.ratio_cell(of_more, of_fewer, False)
            lines.append(f"- {name}: {cell} times the tokens/s of {fewer}")
    return lines


def medians(runs, figure):
    """{x: median of the rounds} of a growth."""
    xs = dict.fromkeys(x for run in runs for x in run["result"] if x != "error")
    return {x: statistics.median(run["result"][x][figure] for run in runs if x in run["result"])
            for x in xs}


def growth_lines(runs, what):
    cost, rate, idle = (medians(runs, figure)
                        for figure in ("us_per_token", "tokens_s", "idle_percent"))
    base = next(iter(cost.values()), None)
    return [f"| {what} | us of the coordinator for a token | times the first | tokens/s | "
            "coordinator without requests, % of a core |", "|---|---|---|---|---|",
            *(f"| {x} | {us:.1f} | {us / base:.2f} | {rate[x]:.0f} | {idle[x]:.1f} |"
              for x, us in cost.items())]


def growth_panel(runs, what):
    return chart.Panel(f"coordinator's time per token by {what}", what, "us of processor time",
                       [(int(x), us) for x, us in medians(runs, "us_per_token").items()])


GROWTHS = {"growth-streams": "streams", "growth-ranks": "ranks"}


def growth_chart(results):
    """The SVG; None where nothing grew."""
    panels = [growth_panel(results[key], what) for key, what in GROWTHS.items()
              if len(medians(results.get(key, []), "us_per_token")) > 1]
    return chart.svg(panels) if panels else None


# Scenario -> (title, what was done, rows).
SECTIONS = {
    "clients-8": ("8 clients", "", CLOSED_LOOP_ROWS),
    "clients-32": ("32 clients", "", CLOSED_LOOP_ROWS),
    "long-prompt": (
        "A long prompt", "8 streams decode; after a while a prompt of 4096 tokens arrives.",
        LONG_PROMPT_ROWS),
    "shared-prefix": (
        "A shared prefix", "Two requests one after the other whose first 1024 tokens are the same, "
        "three times.", SHARED_ROWS),
    "coordinator": (
        "The coordinator", "8 streams decode. How long the rank computes, and the steps, are told "
        "by lines through a sample each second.",
        COORDINATOR_ROWS),
    "memory": (
        "Memory", "The demo model under requests of every kind, a quarter of which the client "
        "leaves in mid-answer. Growth is the slope of the line through a sample each second, "
        "after the first quarter of the time.", MEMORY_ROWS),
}


def section_lines(key, runs, results):
    scenario, _, dtype = key.partition(" ")
    title, done, rows = SECTIONS[scenario]
    lines = ["", f"## {title}{', ' + dtype if dtype else ''}", "", *([done, ""] if done else [])]
    lines += [*table(runs, rows), "", comparison.probe_line(runs)]
    more = notes(runs)
    if scenario == "clients-32":
        more += against_fewer(results, "clients-32", "clients-8", dtype)
    return [*lines, "", *more] if more else lines


def document(header, results, chart_name):
    """results: {"SCENARIO DTYPE": runs}; a run is {name, round, before, after, result}."""
    lines = [*header]
    for key, runs in results.items():
        if key.partition(" ")[0] in SECTIONS:
            lines += section_lines(key, runs, results)
    grown = {key: what for key, what in GROWTHS.items() if key in results}
    if grown:
        lines += ["", "## The coordinator's time per token", "",
                  f"![Processor time by streams and by ranks]({chart_name})"]
    for key, what in grown.items():
        lines += ["", *growth_lines(results[key], what), "", comparison.probe_line(results[key])]
    if any("* |" in line for line in lines):
        lines += ["", comparison.FOOTNOTE]
    return "\n".join(lines) + "\n"
