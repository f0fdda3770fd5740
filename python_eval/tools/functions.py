"""The functions a model may call, and the facts that their arguments are read from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..testbed.words import invented

Value = str | int | float | bool
_Make = Callable[[np.random.Generator], Value]


def _one_of(*values: Value) -> _Make:
    return lambda rng: values[int(rng.integers(len(values)))]


def _integer(low: int, high: int) -> _Make:
    return lambda rng: int(rng.integers(low, high))


def _number(low: int, high: int) -> _Make:
    """Never whole, so that it is the same number however it is written."""
    return lambda rng: (10 * int(rng.integers(low, high)) + int(rng.integers(1, 10))) / 10


def _name(rng: np.random.Generator) -> Value:
    return invented(rng)


_DAY = _one_of("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DEVICE = _one_of("printer", "scanner", "projector", "telephone", "camera")
_FLAG = _one_of(True, False)


@dataclass(frozen=True)
class Function:
    """A function, the sentence that holds a person's arguments for it, and what asks for the call."""

    name: str
    description: str
    parameters: Mapping[str, _Make]  # what makes an argument; its type is its values'
    fact: str  # of {person} and the parameters; a flag is written as yes or no
    request: str  # of {person}

    def signature(self) -> str:
        """One line: name, parameters with their types, description."""
        rng = np.random.default_rng(0)
        types = ", ".join(f"{name}: {_TYPES[type(make(rng))]}" for name, make in self.parameters.items())
        return f"{self.name}({types}) - {self.description}"

    def arguments(self, rng: np.random.Generator) -> dict[str, Value]:
        return {name: make(rng) for name, make in self.parameters.items()}

    def told(self, person: str, arguments: Mapping[str, Value]) -> str:
        return self.fact.format(person=person, **{name: _written(value) for name, value in arguments.items()})


def _written(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}

FUNCTIONS = [
    Function("refund_order", "Pays the price of an order back.",
             {"order_id": _integer(1000, 9999), "amount": _number(10, 90)},
             "The order of {person} has the order id {order_id} and the amount {amount}.",
             "Refund the order of {person}."),
    Function("book_room", "Books a hotel room for a guest.",
             {"hotel": _name, "nights": _integer(2, 15), "breakfast": _FLAG},
             "The hotel room of {person}: hotel {hotel}, {nights} nights, breakfast {breakfast}.",
             "Book the hotel room of {person}."),
    Function("schedule_visit", "Enters a visit to a clinic into the calendar.",
             {"clinic": _name, "day": _DAY, "hour": _integer(8, 18)},
             "The clinic visit of {person}: clinic {clinic}, day {day}, hour {hour}.",
             "Schedule the clinic visit of {person}."),
    Function("send_parcel", "Sends a parcel to a city.",
             {"city": _name, "weight_kg": _number(1, 20), "insured": _FLAG},
             "The parcel of {person}: city {city}, weight {weight_kg} kg, insured {insured}.",
             "Send the parcel of {person}."),
    Function("set_heating", "Sets the temperature of a room.",
             {"room": _integer(100, 999), "temperature": _number(15, 26)},
             "The heating of {person}: room {room}, temperature {temperature}.",
             "Set the heating of {person}."),
    Function("order_part", "Orders spare parts from the store.",
             {"part": _name, "quantity": _integer(2, 60)},
             "The spare parts for {person}: part {part}, quantity {quantity}.",
             "Order the spare parts for {person}."),
    Function("transfer_money", "Transfers money to an account.",
             {"account": _integer(10000, 99999), "euros": _number(20, 900)},
             "The money of {person}: account {account}, {euros} euros.",
             "Transfer the money of {person}."),
    Function("reserve_table", "Reserves a table in a restaurant.",
             {"restaurant": _name, "guests": _integer(2, 13), "day": _DAY},
             "The table of {person}: restaurant {restaurant}, {guests} guests, day {day}.",
             "Reserve the table of {person}."),
    Function("report_fault", "Reports a broken device to the workshop.",
             {"device": _DEVICE, "serial": _integer(1000, 9999)},
             "The broken device of {person}: device {device}, serial {serial}.",
             "Report the broken device of {person}."),
    Function("rent_car", "Rents a car at a station.",
             {"station": _name, "days": _integer(2, 20), "child_seat": _FLAG},
             "The car of {person}: station {station}, {days} days, child seat {child_seat}.",
             "Rent the car of {person}."),
    Function("lend_book", "Lends a book of the library.",
             {"shelf": _integer(100, 999), "title": _name, "weeks": _integer(2, 9)},
             "The book of {person}: title {title}, shelf {shelf}, {weeks} weeks.",
             "Lend the book of {person}."),
    Function("water_garden", "Waters a part of the garden.",
             {"zone": _integer(10, 99), "liters": _number(5, 80), "day": _DAY},
             "The garden of {person}: zone {zone}, {liters} liters, day {day}.",
             "Water the garden of {person}."),
]  # fmt: skip
