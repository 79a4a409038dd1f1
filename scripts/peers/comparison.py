"""Ratios of alternating runs, and the document that tells them. Pure functions of the results."""

import statistics
from dataclasses import dataclass

NEAR_ROUND_TRIP_S = 200e-9  # below it two cores share a cache, and memory bandwidth is the smaller

# A contestant's value that is no rate: less is better.
COSTS = {"start_to_first_token_s": ("process start to first token", "s", 1.0),
         "resident_bytes": ("resident memory", "GB", 1e-9)}

FOOTNOTE = ("\\* The ratio of the medians: in no round did both run while the machine was in one "
            "bandwidth state.")
N_MICRO_BATCHES = 2  # of a round of two stages: each stage reads its weights once for each


@dataclass(frozen=True)
class Column:
    """A contestant, and a ratio beside it: how many times better `better` is than `than`."""

    name: str
    better: str = ""
    than: str = ""
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A table of the document."""

    title: str
    dtype: str
    works: list
    columns: list
    costs: bool  # with rows for memory and start-up


def engine_columns(names):
    base = names[0]
    return [Column(base), *(Column(name, base, name, "ratio") for name in names[1:])]


# Our layouts against one process with all threads; our pipeline against the other engine's.
LAYOUT_COLUMNS = [Column("trireme"),
                  Column("trireme tp2", "trireme tp2", "trireme", "tp2 to trireme"),
                  Column("trireme pp2", "trireme pp2", "trireme", "pp2 to trireme"),
                  Column("llama.cpp-rpc", "trireme pp2", "llama.cpp-rpc", "pp2 to it")]


def state_of(probe):
    """Which of the machine's bandwidth states a probe saw."""
    if probe["round_trip_s"] == 0:
        return "one core"
    return "near" if probe["round_trip_s"] < NEAR_ROUND_TRIP_S else "far"


def probes_of(run, what):
    """What the probes saw before and after a work; where none were made, around the whole run."""
    return run["result"].get("probes", {}).get(what) or [run["before"], run["after"]]


def values_of(runs, name, what):
    """{round: (value, state)} of a contestant. One that saw both states counts for neither; memory
    is the same in both."""
    found = {}
    for run in runs:
        if run["name"] != name:
            continue
        value = run["result"].get(what, run["result"].get("rates", {}).get(what))
        states = {state_of(probe) for probe in probes_of(run, what)}
        if what == "resident_bytes":
            states = {"any"}
        if value is not None:
            found[run["round"]] = (value, states.pop() if len(states) == 1 else "mixed")
    return found


def times_better(ours, theirs, less_is_better):
    return theirs / ours if less_is_better else ours / theirs


def ratios(ours, theirs, less_is_better):
    """How many times better ours is, of the rounds in which both ran in one state."""
    pairs = []
    for number in ours.keys() & theirs.keys():
        (our_value, our_state), (their_value, their_state) = ours[number], theirs[number]
        if our_state == their_state and our_state != "mixed":
            pairs.append(times_better(our_value, their_value, less_is_better))
    return pairs


def spread(values, digits):
    text = f"{statistics.median(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f}-{max(values):.{digits}f})"
    return text


def ratio_cell(ours, theirs, less_is_better):
    """Of pairs in one state; where there are none, of the medians, with a star."""
    if not ours or not theirs:
        return "-"
    pairs = ratios(ours, theirs, less_is_better)
    if pairs:
        return f"{spread(pairs, 2)} n={len(pairs)}"
    medians = (statistics.median(value for value, _ in side.values()) for side in (ours, theirs))
    return f"{times_better(*medians, less_is_better):.2f}*"


def cells(runs, column, what, scale, less_is_better):
    """A contestant's value and, where the column has one, the ratio."""
    values = values_of(runs, column.name, what)
    digits = 2 if less_is_better else 1
    found = [spread([value * scale for value, _ in values.values()], digits) if values else "-"]
    if column.title:
        found.append(ratio_cell(values_of(runs, column.better, what),
                                values_of(runs, column.than, what), less_is_better))
    return found


def table(runs, section):
    """Markdown lines: a row for each work that anybody did and, if wanted, for the costs."""
    heads = [""]
    for column in section.columns:
        heads += [column.name, *filter(None, [column.title])]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    rows = [(work["name"], f"{work['name']}, tokens/s", 1.0, False) for work in section.works]
    if section.costs:
        rows += [(key, f"{text}, {unit}", scale, True)
                 for key, (text, unit, scale) in COSTS.items()]
    for what, text, scale, less_is_better in rows:
        if any(values_of(runs, column.name, what) for column in section.columns):
            row = [text]
            for column in section.columns:
                row += cells(runs, column, what, scale, less_is_better)
            lines.append(f"| {' | '.join(row)} |")
    return lines


def probe_line(runs):
    """The states and the bandwidth that the probes around the runs saw."""
    probes = [run[when] for run in runs for when in ("before", "after")]
    states = sorted({state_of(probe) for probe in probes})
    return (f"Bandwidth state: {', '.join(states)}; DRAM read, all threads: "
            f"{spread([p['dram_bytes_s']['all_threads'] / 1e9 for p in probes], 0)} GB/s; core to "
            f"core and back: {spread([p['round_trip_s'] * 1e9 for p in probes], 0)} ns.")


# --dtype -> the probe's name of the instruction that its products need.
INSTRUCTION = {"bfloat16": "bf16_op_s", "int8": "int8_op_s", "int4": "int8_op_s"}


def operations_per_token(config, prompt):
    """Of a prefill: linear layers, and attention over half of the prompt on average."""
    heads = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    linear = 2 * (2 * hidden * heads + 2 * hidden * kv + 3 * hidden * mlp)
    return config["num_hidden_layers"] * (linear + 4 * heads * prompt / 2)


def shares(dtype, runs, works, config):
    """Lines: how near the base came to the limits that the probes around its works saw."""
    base = [run for run in runs if run["name"] == runs[0]["name"]]

    def line(work, need_per_s, limit, text):
        found = []
        for run in base:
            rate = run["result"].get("rates", {}).get(work["name"])
            peak = statistics.mean(
                probe[limit]["all_threads"] for probe in probes_of(run, work["name"]))
            if rate and peak:
                found.append(100 * need_per_s(run, rate) / peak)
        name = f"{runs[0]['name']}, {work['name']}"
        return [f"- {name}: {spread(found, 0)} % of {text}"] if found else []

    lines = []
    for work in works:
        if work["kind"] == "prefill" and dtype in INSTRUCTION:
            need = operations_per_token(config, work["prompt"])
            lines += line(work, lambda _, rate, need=need: need * rate, INSTRUCTION[dtype],
                          f"the peak of {INSTRUCTION[dtype].split('_', maxsplit=1)[0]} arithmetic")
        elif work["kind"] == "decode" and work["streams"] == 1:
            lines += line(work, lambda run, rate: run["result"]["weight_bytes"] * rate,
                          "dram_bytes_s", "the DRAM read rate, counting weights only")
    return lines


def pipeline_shares(runs, works):
    """Lines: two stages against what reading the weights for every micro-batch allows."""
    weight_bytes = [run["result"]["weight_bytes"] for run in runs
                    if run["name"] == "trireme" and "weight_bytes" in run["result"]]
    lines = []
    for work in works:
        bounds, found = [], []
        for run in runs:
            rate = run["result"].get("rates", {}).get(work["name"])
            if run["name"] == "trireme pp2" and rate and weight_bytes:
                dram = statistics.mean(probe["dram_bytes_s"]["all_threads"]
                                       for probe in probes_of(run, work["name"]))
                bounds.append(work["streams"] * dram / (N_MICRO_BATCHES * weight_bytes[0]))
                found.append(100 * rate / bounds[-1])
        if found:
            lines.append(f"- trireme pp2, {work['name']}: {spread(found, 0)} % of the bound that "
                         f"weight bytes set, {spread(bounds, 0)} tokens/s: the DRAM read rate of "
                         f"all threads, the weights read {N_MICRO_BATCHES} times a round")
    return lines


def failures(runs):
    """One line for each thing that could not be measured."""
    found = {}
    for run in runs:
        for work, reason in run["result"].get("unsupported", {}).items():
            found[f"{run['name']}, {work}: {reason}"] = None
        if "error" in run["result"]:
            found[f"{run['name']}: {run['result']['error']}"] = None
    return list(found)


def joined(parts):
    """The results of several invocations as if of one: the rounds go on counting."""
    results = {}
    for part in parts:
        for dtype, runs in part.items():
            there = results.setdefault(dtype, [])
            first = 1 + max((run["round"] for run in there), default=-1)
            there += [{**run, "round": first + run["round"]} for run in runs]
    return results


def section_lines(runs, section, config):
    notes = shares(section.dtype, runs, section.works, config)
    notes += pipeline_shares(runs, [work for work in section.works if work["streams"] == 8])
    notes += [f"- not measured: {line}" for line in failures(runs)]
    lines = ["", f"## {section.title}", "", *table(runs, section), "", probe_line(runs)]
    return [*lines, "", *notes] if notes else lines


def document(header, parts, config):
    """parts: (section, its runs), in order; a run is {name, round, before, after, result}. config:
    the model's config.json."""
    lines = [*header]
    for section, runs in parts:
        lines += section_lines(runs, section, config)
    if any("* |" in line for line in lines):
        lines += ["", FOOTNOTE]
    return "\n".join(lines) + "\n"
