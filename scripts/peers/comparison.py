"""Ratios of alternating runs, and the document that tells them. Pure functions of the results."""

import statistics

NEAR_ROUND_TRIP_S = 200e-9  # below it two cores share a cache, and memory bandwidth is the smaller

# A contestant's value that is no rate: less is better.
COSTS = {"start_to_first_token_s": ("process start to first token", "s", 1.0),
         "resident_bytes": ("resident memory", "GB", 1e-9)}


def state_of(probe):
    """Which of the machine's bandwidth states a probe saw."""
    if probe["round_trip_s"] == 0:
        return "one core"
    return "near" if probe["round_trip_s"] < NEAR_ROUND_TRIP_S else "far"


def values_of(runs, name, what):
    """{round: (value, state)} of a contestant. A run that saw both states counts for neither."""
    found = {}
    for run in runs:
        if run["name"] != name:
            continue
        value = run["result"].get(what, run["result"].get("rates", {}).get(what))
        before, after = state_of(run["before"]), state_of(run["after"])
        if value is not None:
            found[run["round"]] = (value, before if before == after else "mixed")
    return found


def ratios(ours, theirs, less_is_better):
    """How many times better ours is, of the rounds in which both ran in one state."""
    pairs = []
    for number in ours.keys() & theirs.keys():
        (our_value, our_state), (their_value, their_state) = ours[number], theirs[number]
        if our_state != their_state or our_state == "mixed":
            continue
        pairs.append(their_value / our_value if less_is_better else our_value / their_value)
    return pairs


def spread(values, digits):
    text = f"{statistics.median(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f}-{max(values):.{digits}f})"
    return text


def cells(runs, base, name, what, scale, less_is_better):
    """A contestant's value and, where it is not the base, how many times better the base is."""
    theirs = values_of(runs, name, what)
    if not theirs:
        return ["-"] if name == base else ["-", "-"]
    text = spread([value * scale for value, _ in theirs.values()], 2 if less_is_better else 1)
    if name == base:
        return [text]
    pairs = ratios(values_of(runs, base, what), theirs, less_is_better)
    return [text, f"{spread(pairs, 2)} n={len(pairs)}" if pairs else "no pair in one state"]


def table(runs, base, others, works):
    """Markdown lines: a row for each work, and for memory and start-up."""
    heads = ["", base]
    for name in others:
        heads += [name, "ratio"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    rows = [(work["name"], f"{work['name']}, tokens/s", 1.0, False) for work in works]
    rows += [(key, f"{text}, {unit}", scale, True) for key, (text, unit, scale) in COSTS.items()]
    for what, text, scale, less_is_better in rows:
        row = [text]
        for name in [base, *others]:
            row += cells(runs, base, name, what, scale, less_is_better)
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
    """Lines: how near the base came to the limits that the probes around its runs saw."""
    base = [run for run in runs if run["name"] == runs[0]["name"]]

    def line(work, need_per_s, limit, text):
        found = []
        for run in base:
            rate = run["result"].get("rates", {}).get(work["name"])
            peak = statistics.mean(run[when][limit]["all_threads"] for when in ("before", "after"))
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


def document(header, results, works, config):
    """results: {dtype: runs}, in order; a run is {name, round, before, after, result}. config: the
    model's config.json."""
    lines = [*header]
    for dtype, runs in results.items():
        names = list(dict.fromkeys(run["name"] for run in runs))
        base, others = names[0], names[1:]
        lines += ["", f"## {dtype}", "", *table(runs, base, others, works), "", probe_line(runs)]
        lines += ["", *shares(dtype, runs, works, config)]
        lines += [f"- not measured: {line}" for line in failures(runs)]
    return "\n".join(lines) + "\n"
