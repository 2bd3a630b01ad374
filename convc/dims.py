"""Symbolic sizes: integer polynomials over named symbols and floor divisions, in one canonical form.

    H = Dim.symbol("H"); (H + 2 * 3 - 7) // 2 + 1      prints  (H - 1)//2 + 1

Two sizes are equal when their canonical forms are; a size without symbols is a plain int.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from convc.errors import ModelError


@dataclass(frozen=True, slots=True)
class FloorDiv:
    """floor(numerator / denominator), where the division cannot be carried out."""

    numerator: Dim
    denominator: Dim | int

    def __str__(self) -> str:
        return f"({self.numerator})//{_wrap(self.denominator)}"


MAX_TERMS = 1_000
"""Of a product, multiplied out: a short text could ask for billions."""

Atom = str | FloorDiv
Monomial = tuple[Atom, ...]


@dataclass(frozen=True)
class Dim:
    """Sum of coefficient * product of atoms. `terms` is sorted and holds no zero; () is the constant monomial."""

    terms: tuple[tuple[Monomial, int], ...]

    @staticmethod
    def symbol(name: str) -> Dim:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ModelError(f"symbolic size {name!r} is not an identifier", hint="use letters, digits and _")
        return Dim((((name,), 1),))

    def __add__(self, other: Size) -> Size:
        total = dict(self.terms)
        for monomial, factor in _terms(other):
            total[monomial] = total.get(monomial, 0) + factor
        return _normal(total)

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: Size) -> Size:
        return self + (-other)

    def __rsub__(self, other: int) -> Size:
        return -self + other

    def __mul__(self, other: Size) -> Size:
        if not isinstance(other, Dim):
            return Dim(tuple((m, f * int(other)) for m, f in self.terms)) if other else 0
        if len(self.terms) * len(_terms(other)) > MAX_TERMS:
            raise ModelError(f"a size has more than {MAX_TERMS} terms", hint="name it by a symbol of its own")
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in _terms(other):
                key = tuple(sorted(left + right, key=str)) if left and right else left or right
                total[key] = total.get(key, 0) + a * b
        return _normal(total)

    def __floordiv__(self, other: Size) -> Size:
        if other == 1:
            return self
        if self == other:
            return 1
        if isinstance(other, Dim):
            return self._divide_by_symbols(other)
        whole = {m: f // other for m, f in self.terms if f % other == 0 or not m}
        rest = {m: f for m, f in self.terms if f % other and m}
        constant = dict(self.terms).get((), 0)
        if not rest:
            return _normal(whole)
        whole.pop((), None)
        quotient, remainder = divmod(constant, other)
        inner = _only_quotient(rest)
        if inner is not None and other > 0:  # (a//b + c)//d = (a + b*c)//(b*d)
            return _normal(whole) + quotient + (inner.numerator + remainder * inner.denominator) // (
                inner.denominator * other
            )
        rest[()] = remainder
        if quotient:
            whole[()] = quotient
        return _normal(whole) + Dim((((FloorDiv(_as_dim(_normal(rest)), other),), 1),))

    def _divide_by_symbols(self, other: Dim) -> Size:
        """Exact where `other` is one monomial that divides every term, as in (N*C*H)//N."""
        if len(other.terms) == 1:
            divisor, factor = other.terms[0]
            quotient: dict[Monomial, int] = {}
            for monomial, coefficient in self.terms:
                rest = list(monomial)
                try:
                    for atom in divisor:
                        rest.remove(atom)
                except ValueError:
                    break
                if coefficient % factor:
                    break
                quotient[tuple(rest)] = coefficient // factor
            else:
                return _normal(quotient)
        return Dim((((FloorDiv(self, other),), 1),))

    def __rfloordiv__(self, other: int) -> Size:
        return Dim((((FloorDiv(_as_dim(other), self),), 1),))

    def __mod__(self, other: Size) -> Size:
        return self - (self // other) * other

    __radd__ = __add__
    __rmul__ = __mul__

    @cached_property
    def symbols(self) -> frozenset[str]:
        found: set[str] = set()
        for monomial, _ in self.terms:
            for atom in monomial:
                found |= {atom} if isinstance(atom, str) else atom.numerator.symbols | symbols(atom.denominator)
        return frozenset(found)

    def bind(self, sizes: Mapping[str, Size]) -> Size:
        """Replace symbols by the given sizes; symbols that are not in `sizes` stay."""
        total: Size = 0
        for monomial, factor in self.terms:
            product: Size = factor
            for atom in monomial:
                if isinstance(atom, str):
                    product = product * (sizes[atom] if atom in sizes else Dim.symbol(atom))
                else:
                    product = product * (atom.numerator.bind(sizes) // bind(atom.denominator, sizes))
            total = total + product
        return total

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        parts: list[str] = []
        for monomial, factor in self.terms:
            sign, size = ("-" if factor < 0 else "+"), abs(factor)
            factors = [str(size)] if size != 1 or not monomial else []
            for atom in monomial:
                # `*` and `//` bind alike, from the left: a quotient is bare only where no sign or factor precedes it.
                bare = isinstance(atom, str) or (not factors and (bool(parts) or sign == "+"))
                factors.append(str(atom) if bare else f"({atom})")
            body = "*".join(factors)
            parts.append(f" {sign} {body}" if parts else ("-" if factor < 0 else "") + body)
        return "".join(parts)

    __repr__ = __str__


Size = int | Dim


def _only_quotient(terms: Mapping[Monomial, int]) -> FloorDiv | None:
    """The one term where it is a quotient by an int, once."""
    ((monomial, factor), *others) = terms.items()
    if others or factor != 1 or len(monomial) != 1:
        return None
    (atom,) = monomial
    return atom if isinstance(atom, FloorDiv) and isinstance(atom.denominator, int) else None


def _wrap(size: Size) -> str:
    return str(size) if isinstance(size, int) else f"({size})"


def _terms(size: Size) -> tuple[tuple[Monomial, int], ...]:
    return size.terms if isinstance(size, Dim) else (((), int(size)),)


def _as_dim(size: Size) -> Dim:
    return size if isinstance(size, Dim) else Dim((((), size),))


def _normal(terms: dict[Monomial, int]) -> Size:
    kept = {m: f for m, f in terms.items() if f}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    if len(kept) == 1:
        return Dim(tuple(kept.items()))
    ordered = sorted(kept.items(), key=lambda t: (not t[0], [str(a) for a in t[0]]))
    return Dim(tuple(ordered))


def bind(size: Size, sizes: Mapping[str, Size]) -> Size:
    """`size` with symbols replaced; ints pass through."""
    return size.bind(sizes) if isinstance(size, Dim) else size


def concrete(size: Size, sizes: Mapping[str, int]) -> int:
    """`size` as an int. Raises ModelError where a symbol is left."""
    value = bind(size, sizes)
    if isinstance(value, Dim):
        raise ModelError(f"size {value} is not known", hint=f"give values for {', '.join(sorted(value.symbols))}")
    return value


def symbols(size: Size) -> frozenset[str]:
    """Names of the symbols in `size`."""
    return size.symbols if isinstance(size, Dim) else frozenset()


def parse_size(text: str) -> Size:
    """Read back what `str` prints: ints, names, + - * // and parentheses. Raises ModelError."""
    tokens = re.findall(r"\s*(\d+|[A-Za-z_]\w*|//|[-+*()])", text)
    if "".join(tokens) != re.sub(r"\s", "", text) or not tokens or len(tokens) > 10_000:
        raise ModelError(f"size {text!r} cannot be read", hint="use integers, names, +, -, *, // and parentheses")
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1] if position <= len(tokens) else ""

    def atom(depth: int) -> Size:
        token = take()
        if token == "(" and depth < 50:
            inner = total(depth + 1)
            if take() == ")":
                return inner
        elif token == "-" and depth < 50:
            return -atom(depth + 1)
        elif token.isdigit():
            return int(token)
        elif token and (token[0].isalpha() or token[0] == "_"):
            return Dim.symbol(token)
        raise ModelError(f"size {text!r} cannot be read at token {position}", hint="check names and parentheses")

    def product(depth: int) -> Size:
        value = atom(depth)
        while peek() in {"*", "//"}:
            value = value * atom(depth) if take() == "*" else value // _nonzero(atom(depth), text)
        return value

    def total(depth: int) -> Size:
        value = product(depth)
        while peek() in {"+", "-"}:
            value = value + product(depth) if take() == "+" else value - product(depth)
        return value

    result = total(0)
    if peek():
        raise ModelError(f"size {text!r} has something left after token {position}", hint="check the parentheses")
    return result


def _nonzero(size: Size, text: str) -> Size:
    if size == 0:
        raise ModelError(f"size {text!r} divides by zero", hint="check the expression")
    return size
