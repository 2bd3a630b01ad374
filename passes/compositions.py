"""w = b * a: a dense kernel [O, C, k, k] as b [O, M, k-s+1, k-s+1] after a [M, C, s, s], both unknown.

As matrices of polynomials in two variables, W(x, y) = B(x, y) A(x, y), with the freedom B G^-1, G A. Where O > M or
C > M, linear algebra gives A: at a fixed y, enough rows of W(x, y), x W(x, y), x^2 W(x, y), ... span all p(x) A(x, y)
with deg p bounded, and those of degree < s among them are the rows of A(x, y). Several y on the unit circle give A
itself: the rows that lie in each of these spans. Where O = C = M that says nothing, and seeded starts
are tried. Either way, Levenberg-Marquardt (its steps by conjugate gradients, preconditioned by the Gram matrices of a
and b) then brings the residual down to that of rounding. M is what the corner taps tell: w[:,:,0,0] = b00 a00.
All in float64. Source: Gohberg, Lancaster, Rodman, Matrix polynomials, 1982; Golub and Pereyra 2003.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convc.passes.rank import exact_rank, off_rank
from convc.types import Array

LINES = 640
"""Of the matrices of the linear algebra: 64 channels between, whose composition then takes some 8 s to recover. Kernels
without structure are refused in milliseconds."""
SQUARE = 32
"""Channels between, up to which starts are tried where C = M = O."""
STARTS = {5: ((8, 12), (16, 6), (32, 3)), 7: ((32, 3),)}
"""By kernel size and channels between up to a number: a third of the starts succeed with few, a half with many."""
HOPEFUL = 0.24
"""Relative residual after a few steps from a start: compositions are below, kernels without structure stay above."""
NEAR = 0.45
"""Relative residual of what linear algebra finds: rounding to float32 may bring compositions to 0.25, others are at
0.6 and above.
"""
SLOW = 3
"""Steps in a row that bring less than 3 %, after which a start is given up."""
FOUND = 1e-6
"""Relative residual of a composition whose kernel was rounded to float32, with room: 1.6e-8 is usual."""


@dataclass(frozen=True)
class Composition:
    """w = second * first up to `residual`, in the Frobenius norm relative to w."""

    first: Array
    second: Array
    residual: float


def flipped(w: Array) -> Array:
    """Output and input channels exchanged: (b * a)^T = a^T * b^T."""
    exchanged: Array = w.transpose(1, 0, 2, 3)
    return exchanged


def channels_between(w: Array) -> int:
    """The rank of the corner taps, which each are a product over the channels between; the highest of the four."""
    largest = float(np.abs(w).max())
    corners = [w[:, :, i, j] for i in (0, -1) for j in (0, -1)]
    return max(exact_rank(np.linalg.svd(c, compute_uv=False), largest, c.shape) for c in corners)


def find_composition(w: Array, between: int, size: int) -> Composition | str:
    """The composition with that many channels between and a first kernel of that size; or why there is none."""
    out, channels = w.shape[:2]
    if out == channels == between:
        return _from_starts(w, between, size)
    if channels > out:
        other = find_composition(flipped(w), between, w.shape[2] - size + 1)
        return (
            other
            if isinstance(other, str)
            else Composition(flipped(other.second), flipped(other.first), other.residual)
        )
    random = np.random.default_rng(0)
    narrow = w
    if channels > between:
        basis = np.linalg.qr(random.normal(size=(channels, between)))[0]
        narrow = np.einsum("ocrs,cm->omrs", w, basis)
    lines = _lines(narrow, size)
    if lines > LINES:
        if between <= SQUARE:
            return _from_starts(w, between, size)
        return f"{between} channels between are not searched: its equations have {lines} lines"
    first = _right_factor(narrow, size)
    if isinstance(first, str):
        return first
    second = second_of(narrow, first)
    off = _relative(narrow, first, second)
    if off > NEAR:
        return f"no {size}x{size} with {between} channels between divides it: {off:.2g} of it is left"
    first = flipped(second_of(flipped(w), flipped(second)))
    found = refine(w, Composition(first, second_of(w, first), 1.0))
    if found.residual <= FOUND or between > SQUARE:
        return found
    return _from_starts(w, between, size)


def _relative(w: Array, first: Array, second: Array) -> float:
    product = (second.reshape(len(w), -1) @ _taps(first, second.shape[2])).reshape(w.shape)
    return float(np.linalg.norm(w - product) / np.linalg.norm(w))


def _shifts(w: Array, size: int) -> int:
    """How many multiples of W(x, y), by powers of x, tell its right factor."""
    out, between, k = map(int, w.shape[:3])
    return -(-(k - size) * between // (out - between)) + 1


def _lines(w: Array, size: int) -> int:
    """Lines of the largest matrix of the linear algebra."""
    out, between, k = map(int, w.shape[:3])
    shifts = _shifts(w, size)
    return max((shifts + k - size) * between, shifts * out, size * size * between)


def _right_factor(w: Array, size: int) -> Array | str:
    """A [M, M, s, s] of W = B A, up to a constant matrix, from w [O, M, k, k] with O > M."""
    between, k = w.shape[1:3]
    shifts = _shifts(w, size)
    span, lines = (shifts + k - size) * between, size * size * between
    off = off_rank(_shifted(w.sum(3), shifts)[:, None, :, None], span)
    if off:
        return f"no {size}x{size} with {between} channels between divides it: a row of its multiples is {off:.2g} off"
    gram = np.zeros((size, size * between, size, size * between))
    for index in range(size):
        y = np.exp(1j * np.pi * (index + 0.5) / size)
        rows = _shifted(np.einsum("ocrs,s->ocr", w, y ** np.arange(k)), shifts)
        found = _low_rows(rows, span, between, size * between)
        basis = np.linalg.qr(found.T)[0]
        outside = np.eye(size * between) - basis @ basis.conj().T
        powers = y ** np.arange(size)
        gram += np.einsum("a,b,ij->aibj", powers.conj(), powers, outside).real
    vectors = np.linalg.eigh(gram.reshape(lines, lines))[1]
    rows_of: Array = vectors[:, :between].T.reshape(between, size, size, between).transpose(0, 3, 2, 1)
    return rows_of


def _shifted(at_y: Array, shifts: int) -> Array:
    """The rows of W(x), x W(x), ... by powers of x and channels, from their coefficients [O, C, k]."""
    out, channels, k = at_y.shape
    rows = np.zeros((shifts, out, shifts + k - 1, channels), at_y.dtype)
    for shift in range(shifts):
        rows[shift, :, shift : shift + k] = at_y.transpose(0, 2, 1)
    return rows.reshape(shifts * out, -1)


def _low_rows(rows: Array, span: int, between: int, low: int) -> Array:
    """Combinations [M, low] of the rows, of rank `span`, that are zero beyond the first `low` columns."""
    if len(rows) > span:
        _, vectors = np.linalg.eigh(rows @ rows.conj().T)
        rows = vectors[:, -span:].conj().T @ rows
    q = np.linalg.qr(rows[:, low:], mode="complete")[0]
    product: Array = q[:, -between:].conj().T @ rows[:, :low]
    return product


def _from_starts(w: Array, between: int, size: int) -> Composition | str:
    if between > SQUARE:
        return f"{between} channels between, as many as input and output channels, are not searched"
    k = w.shape[2]
    if k not in STARTS:
        return f"{k}x{k} with {between} channels between, as many as input and output channels, are not searched"
    best = np.inf
    for seed in range(next(starts for most, starts in STARTS[k] if between <= most)):
        found = from_start(w, between, size, seed)
        best = min(best, found.residual)
        if found.residual <= FOUND:
            return found
        if seed == 0 and found.residual > HOPEFUL:
            break
    return f"the nearest composition found, with {between} channels between, is off by {best:.2g}"


def from_start(w: Array, between: int, size: int, seed: int, steps: int = 25) -> Composition:
    """What alternating least squares and Levenberg-Marquardt make of random weights."""
    first = np.random.default_rng(seed).normal(size=(between, w.shape[1], size, size))
    for _ in range(10):
        first = flipped(second_of(flipped(w), flipped(second_of(w, first))))
    start = refine(w, Composition(first, second_of(w, first), 1.0), steps=4, inner=30)
    return start if start.residual > HOPEFUL else refine(w, start, steps=steps, inner=30)


def second_of(w: Array, first: Array) -> Array:
    """The b that is best with a given a, by least squares."""
    between, size = first.shape[0], first.shape[2]
    rest = w.shape[2] - size + 1
    taps = _taps(first, rest)
    gram = taps @ taps.T
    gram[np.diag_indices_from(gram)] += 1e-13 * np.trace(gram) / len(gram)
    solved = np.linalg.solve(gram, taps @ w.reshape(len(w), -1).T)
    second: Array = solved.T.reshape(len(w), between, rest, rest)
    return second


def _taps(a: Array, rest: int) -> Array:
    """The matrix T with b * a = b T: [(m, i, j), (c, r, s)]."""
    between, channels, size, _ = a.shape
    k = size + rest - 1
    taps = np.zeros((between, rest, rest, channels, k, k))
    for i in range(rest):
        for j in range(rest):
            taps[:, i, j, :, i : i + size, j : j + size] = a
    matrix: Array = taps.reshape(between * rest * rest, channels * k * k)
    return matrix


def refine(w: Array, start: Composition, steps: int = 12, inner: int = 60) -> Composition:
    """Levenberg-Marquardt from `start`, until the residual is that of rounding or stands still."""
    a, b = start.first, start.second
    between, channels, size, _ = a.shape
    out, rest, k = len(b), b.shape[2], w.shape[2]
    norm = float(np.linalg.norm(w))
    damping, slow = 1e-3, 0
    error = w - (b.reshape(out, -1) @ _taps(a, rest)).reshape(w.shape)
    residual = float(np.linalg.norm(error)) / norm
    for _ in range(steps):
        q, r = np.linalg.qr(a.reshape(between, -1).T)
        a, b = q.T.reshape(a.shape), np.einsum("omij,nm->onij", b, r)
        steps_of = _Steps(_taps(a, rest), _taps(flipped(b), size), w.shape)
        while True:
            db, da = steps_of.solve(error, damping, inner, 1e-6 * min(1.0, 10 * residual))
            b2, a2 = b + db.reshape(b.shape), a + flipped(da.reshape(channels, between, size, size))
            error2 = w - (b2.reshape(out, -1) @ _taps(a2, rest)).reshape(out, channels, k, k)
            residual2 = float(np.linalg.norm(error2)) / norm
            if residual2 < residual:
                break
            damping *= 10
            if damping > 1e6:
                return Composition(a, b, residual)
        settled = residual2 > residual * 0.999 or (residual2 < FOUND and residual2 > residual / 4)
        slow = slow + 1 if residual2 > residual * 0.97 and residual2 > 0.02 else 0
        a, b, error, residual, damping = a2, b2, error2, residual2, max(damping / 10, 1e-12)
        if settled or slow > SLOW or residual < 1e-9:
            break
    return Composition(a, b, residual)


class _Steps:
    """Solves the damped normal equations of error = db T(a) + (da T(b^T))^T by conjugate gradients."""

    def __init__(self, ta: Array, tb: Array, shape: tuple[int, ...]) -> None:
        self._t = (ta, tb)
        self._grams = (ta @ ta.T, tb @ tb.T)
        self._shape = shape

    def solve(self, error: Array, damping: float, steps: int, tolerance: float) -> tuple[Array, Array]:
        """The step (db, da) as matrices."""
        mu = [damping * float(np.trace(g)) / len(g) for g in self._grams]
        inverses = [np.linalg.inv(g + m * np.eye(len(g))) for g, m in zip(self._grams, mu, strict=True)]
        r = self._transposed(error)
        x = [np.zeros_like(part) for part in r]
        z = [part @ inverse for part, inverse in zip(r, inverses, strict=True)]
        p, rz = z, _dot(r, z)
        start = rz
        for _ in range(steps):
            if rz <= tolerance * start or rz == 0:
                break
            q = self._transposed(self._apply(p))
            q = [qi + m * pi for qi, m, pi in zip(q, mu, p, strict=True)]
            alpha = rz / _dot(p, q)
            x = [xi + alpha * pi for xi, pi in zip(x, p, strict=True)]
            r = [ri - alpha * qi for ri, qi in zip(r, q, strict=True)]
            z = [ri @ inverse for ri, inverse in zip(r, inverses, strict=True)]
            before, rz = rz, _dot(r, z)
            p = [zi + rz / before * pi for zi, pi in zip(z, p, strict=True)]
        return x[0], x[1]

    def _apply(self, p: list[Array]) -> Array:
        out, channels, k, _ = self._shape
        by_a = (p[0] @ self._t[0]).reshape(self._shape)
        total: Array = by_a + flipped((p[1] @ self._t[1]).reshape(channels, out, k, k))
        return total

    def _transposed(self, w: Array) -> list[Array]:
        return [
            w.reshape(len(w), -1) @ self._t[0].T,
            np.ascontiguousarray(flipped(w)).reshape(w.shape[1], -1) @ self._t[1].T,
        ]


def _dot(a: list[Array], b: list[Array]) -> float:
    return sum(float(np.vdot(x, y)) for x, y in zip(a, b, strict=True))
