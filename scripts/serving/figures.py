"""Figures from moments and values. Pure functions."""

import math


def percentile(values, percent):
    """Between the two nearest values in proportion; nan of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def linear_fit(points):
    """(slope, value at x = 0) of the line with the least squares through (x, y)."""
    n = len(points)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread == 0:
        return 0.0, mean_y
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return slope, mean_y - slope * mean_x


def gaps_within(moments, begin, end):
    """The times between neighbouring moments that both lie between `begin` and `end`."""
    return [after - before for before, after in zip(moments, moments[1:])
            if before >= begin and after <= end]


def gaps_across(moments, begin, end):
    """Those that lie at least partly between `begin` and `end`."""
    return [after - before for before, after in zip(moments, moments[1:])
            if after > begin and before < end]


def of_all(gaps, requests, begin, end):
    """The gaps of all requests together."""
    return [gap for request in requests for gap in gaps(request["times"], begin, end)]


def first_token_times(requests, begin, end):
    """Of the requests that were sent in that time, from sending to the first token."""
    return [request["times"][0] - request["begin"] for request in requests
            if begin <= request["begin"] < end and request["times"]]


def n_tokens(requests, begin, end):
    """Events that came in that time: one for each token."""
    return sum(begin <= moment < end for request in requests for moment in request["times"])
