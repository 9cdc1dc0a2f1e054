"""Writes ``sales.csv``, the demo's sample data: the same bytes on every machine.

Run ``python configs/demo/make_sales.py > configs/demo/sales.csv``.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Final, TextIO

ROWS: Final = 1500
PRODUCTS: Final = (
    ("Trail Boots", "129.90"),
    ("Rain Jacket", "89.50"),
    ("Camp Stove", "54.25"),
    ("Sleeping Bag", "149.00"),
    ("Headlamp", "34.95"),
    ("Water Filter", "42.80"),
    ("Tent, two persons", "219.00"),
    ("Trekking Poles", "64.75"),
)
REGIONS: Final = ("North", "South", "East", "West")


def rows() -> Iterator[tuple[str, str, str, int, Decimal, Decimal]]:
    """Date, region, product, quantity, unit price and revenue of each sale."""
    state = 20_240_101
    for number in range(ROWS):
        # A linear congruential generator (Numerical Recipes) draws the same everywhere, whatever the version.
        draws = []
        for _ in range(4):
            state = (1_664_525 * state + 1_013_904_223) % 2**32
            draws.append(state >> 16)
        product, price = PRODUCTS[draws[0] % len(PRODUCTS)]
        discount = Decimal(draws[1] % 4 * 5) / 100
        unit_price = (Decimal(price) * (1 - discount)).quantize(Decimal("0.01"))
        quantity = 1 + draws[2] % 9
        day = date(2024, 1, 1) + timedelta(days=number * 366 // ROWS)
        region = REGIONS[draws[3] % len(REGIONS)]
        yield day.isoformat(), region, product, quantity, unit_price, quantity * unit_price


def write(target: TextIO) -> None:
    """Write the file with a header."""
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(("date", "region", "product", "quantity", "unit_price", "revenue"))
    writer.writerows(rows())


if __name__ == "__main__":
    write(sys.stdout)
