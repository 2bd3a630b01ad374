"""p(x, y) = f1(x, y) f2(x, y) ...: planes [n, k, k] as products (convolutions) of (k - 1)/2 planes [n, 3, 3].

A separable plane u(x) v(y) always is one: u and v are real polynomials of even degree, hence products of real
quadratics, whose roots are two conjugates or two real ones (zero and infinity, for coefficients that vanish, included).
Others are rarely; those that are, are recovered by Levenberg-Marquardt on p = f g for all planes at once, from several
seeded starts, 18 unknowns a plane for 5x5. In float64.
"""

from __future__ import annotations

import numpy as np

from convc.passes.chain import TOLERANCE
from convc.types import Array

STARTS = 60
"""Of which a half succeed for 5x5, a quarter for 7x7."""
STEPS = 40
FEW = 4
"""Planes that are tried first: where one of them is no product, nothing else is done."""
HOPEFUL = 0.15
"""Relative residual after some starts: products are below (local minima are at 0.03), other planes stay at 0.3."""


def factor_planes(planes: Array) -> list[Array] | str:
    """Planes [n, 3, 3], first to last; or why there are none, with the measured residual."""
    some = planes[:FEW]
    if len(planes) > FEW:
        tried = _factor_all(some)
        if isinstance(tried, str):
            return tried
    return _factor_all(planes)


def _factor_all(planes: Array) -> list[Array] | str:
    count, k, _ = planes.shape
    if k == 3:
        return [planes]
    u, values, v = np.linalg.svd(planes)
    separable = values[:, 1] <= TOLERANCE * np.abs(planes).max((1, 2)) * k
    found = [np.zeros((count, 3, 3)) for _ in range((k - 1) // 2)]
    for n in np.flatnonzero(separable):
        scale = values[n, 0] ** (1 / len(found))
        pairs = zip(quadratics(u[n, :, 0]), quadratics(v[n, 0]), strict=True)
        for factor, (down, across) in zip(found, pairs, strict=True):
            factor[n] = scale * np.outer(down, across)
    rest = np.flatnonzero(~separable)
    if rest.size:
        first, last, residual = divide(planes[rest], 3)
        worst = int(np.argmax(residual))
        if residual[worst] > TOLERANCE * k:
            return f"channel {rest[worst]} is no product: the nearest found is off by {residual[worst]:.2g}"
        others = _factor_all(last)
        if isinstance(others, str):
            return others
        for factor, part in zip(found, [first, *others], strict=True):
            factor[rest] = part
    return found


def quadratics(coefficients: Array) -> list[Array]:
    """Real quadratics, each scaled alike, whose product has these coefficients (an odd number)."""
    degree = len(coefficients) - 1
    largest = float(np.abs(coefficients).max())
    kept = np.flatnonzero(np.abs(coefficients) > 1e-12 * largest)
    low, high = int(kept[0]), int(kept[-1])
    roots = np.roots(coefficients[low : high + 1][::-1])
    upper = roots[roots.imag > 1e-12 * np.abs(roots)]
    real = np.sort(roots[np.abs(roots.imag) <= 1e-12 * np.abs(roots)].real)
    linear = [np.array([0.0, 1.0])] * low + [np.array([1.0, 0.0])] * (degree - high)
    linear += [np.array([-root, 1.0]) for root in real]
    # The largest with the smallest, so that no quadratic holds all that is large.
    linear.sort(key=lambda pair: abs(pair[0]) / (abs(pair[0]) + abs(pair[1])))
    found = [np.convolve(linear[i], linear[-1 - i]) for i in range(len(linear) // 2)]
    found += [np.array([abs(root) ** 2, -2 * root.real, 1.0]) for root in upper]
    found = [q / np.linalg.norm(q) for q in found]
    product = np.ones(1)
    for quadratic in found:
        product = np.convolve(product, quadratic)
    at = int(np.argmax(np.abs(coefficients)))
    scale = coefficients[at] / product[at]
    size = abs(scale) ** (1 / len(found))
    return [(np.sign(scale) if i == 0 else 1.0) * size * q for i, q in enumerate(found)]


def divide(planes: Array, size: int) -> tuple[Array, Array, Array]:
    """Planes f [n, s, s] and g [n, k-s+1, k-s+1] with p near f g, and the residual of each, relative to its norm."""
    count, k, _ = planes.shape
    rest = k - size + 1
    norms = np.linalg.norm(planes, axis=(1, 2))
    target = planes / norms[:, None, None]
    best = np.full(count, np.inf)
    f, g = np.zeros((count, size, size)), np.zeros((count, rest, rest))
    for seed in range(STARTS):
        waiting = np.flatnonzero(best > TOLERANCE)
        if not waiting.size or (seed >= 10 and float(best.max()) > HOPEFUL):
            break
        found = _descend(target[waiting], size, seed)
        better = found[2] < best[waiting]
        at = waiting[better]
        f[at], g[at], best[at] = (part[better] for part in found)
    root = np.sqrt(norms)[:, None, None]
    return f * root, g * root, best


def _descend(p: Array, size: int, seed: int) -> tuple[Array, Array, Array]:
    """Levenberg-Marquardt from one start for each plane, all at once."""
    count, k, _ = p.shape
    rest = k - size + 1
    random = np.random.default_rng(seed)
    f = random.normal(size=(count, size, size))
    g = random.normal(size=(count, rest, rest)) / k
    damping = np.full(count, 1e-2)
    error = p - _product(f, g)
    residual = np.linalg.norm(error, axis=(1, 2))
    for _ in range(STEPS):
        # The Jacobian's columns: what each element of f and g adds to the product.
        jacobian = np.concatenate([_shifts(g, size), _shifts(f, rest)], 1).reshape(count, -1, k * k)
        gram = jacobian @ jacobian.transpose(0, 2, 1)
        scale = np.trace(gram, axis1=1, axis2=2) / gram.shape[1]
        damped = gram + (damping * scale)[:, None, None] * np.eye(gram.shape[1])
        step = np.linalg.solve(damped, (jacobian @ error.reshape(count, -1, 1)))[:, :, 0]
        f2 = f + step[:, : size * size].reshape(f.shape)
        g2 = g + step[:, size * size :].reshape(g.shape)
        error2 = p - _product(f2, g2)
        residual2 = np.linalg.norm(error2, axis=(1, 2))
        down = residual2 < residual
        f, g, error = (np.where(down[:, None, None], new, old) for new, old in ((f2, f), (g2, g), (error2, error)))
        residual = np.where(down, residual2, residual)
        damping = np.clip(np.where(down, damping / 10, damping * 10), 1e-15, 1e6)
        if np.all((residual < 1e-9) | (damping >= 1e6)):
            break
    return f, g, residual


def _shifts(g: Array, size: int) -> Array:
    """[n, size * size, k, k]: g at each place."""
    count, rest, _ = g.shape
    k = size + rest - 1
    found = np.zeros((count, size, size, k, k))
    for i in range(size):
        for j in range(size):
            found[:, i, j, i : i + rest, j : j + rest] = g
    return found.reshape(count, size * size, k, k)


def _product(f: Array, g: Array) -> Array:
    product: Array = np.einsum("nt,ntxy->nxy", f.reshape(len(f), -1), _shifts(g, f.shape[1]))
    return product
