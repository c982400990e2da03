"""What numbers an option may have, said in its type: `std: Positive = 1.0`.

The signature of a component is where its range stands. Options of a config are checked against it (flowgen.config), and
what is not a number or infinite is refused in all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True, repr=False)
class Range:
    """Numbers from `low` to `high`; `above`, `below`: without the end itself. Stands in `Annotated[float, Range(...)]`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __repr__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"{self.low:g} or more" if self.low > -math.inf else ""
        high = f"below {self.high:g}" if self.below else f"{self.high:g} or less" if self.high < math.inf else ""
        if low and high and not self.above and not self.below:
            return f"from {self.low:g} to {self.high:g}"
        return " and ".join(part for part in (low, high) if part)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """What pydantic asks of an annotation: its bounds, in the words of pydantic's schema of numbers."""
        schema = dict(handler(source))
        if self.low > -math.inf:
            schema["gt" if self.above else "ge"] = self.low
        if self.high < math.inf:
            schema["lt" if self.below else "le"] = self.high
        return schema


Real = Annotated[float, Range()]
"""Any finite number."""
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
"""From 0 to 1, both included."""
Decay = Annotated[float, Range(0, 1, below=True)]
"""From 0 to below 1."""
Integer = Annotated[int, Range()]
Count = Annotated[int, Range(1)]
"""1 or more."""
Whole = Annotated[int, Range(0)]
"""0 or more."""
