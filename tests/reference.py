"""The oracle: sections 3 and 4 of the paper, word for word, in loops over images, tokens and heads.

Nothing here is fast and nothing is shared with ``randsac_mm``: only the tensors of ``model.state_dict()`` and plain
sizes come in. There are no masks and no sorting: every token lists which tokens it may attend to, by comparing ranks,
and its softmax runs over those alone. Everything is float64.
"""

import math

import torch
from torch import Tensor

State = dict[str, Tensor]
Grid = tuple[int, int]  # rows and columns of tokens
Vectors = dict[int, Tensor]  # token, as place in raster order -> vector
EPS = 1e-6


# --- segments (section 3) ---------------------------------------------------------------------------------------------


def square_ids(height: int, width: int, side: int) -> list[int]:
    """Number squares of ``side`` x ``side`` tokens row by row; one id per token in raster order."""
    ids = []
    for y in range(height):
        for x in range(width):
            ids.append((y // side) * (width // side) + x // side)
    return ids


def token_positions(height: int, width: int) -> list[tuple[float, float]]:
    """Place tokens (y, x) so that the top left one is (-2, -2) and the bottom right (2, 2); a lone row is at 0."""

    def place(i: int, n: int) -> float:
        return -2 + 4 * i / (n - 1) if n > 1 else 0.0

    return [(place(y, height), place(x, width)) for y in range(height) for x in range(width)]


def closest_component(point: tuple[float, float], means: list, stds: list) -> tuple[int, float]:
    """Find the component with the least Mahalanobis distance (equation 1), and by how much it wins."""
    distances = []
    for (my, mx), (sy, sx) in zip(means, stds, strict=True):
        distances.append((((point[0] - my) / sy) ** 2 + ((point[1] - mx) / sx) ** 2, len(distances)))
    distances.sort()
    return distances[0][1], distances[1][0] - distances[0][0]


def dense_ranks(keys: list[int]) -> list[int]:
    """Replace each key by the number of different smaller keys."""
    return [len({other for other in keys if other < key}) for key in keys]


def raster_ranks(levels: list[list[int]]) -> list[int]:
    """Rank the segments of a hierarchy (ids per level, fine to coarse) by first tokens: coarsest groups first."""
    order = []
    for token in range(len(levels[0])):
        firsts = [ids.index(ids[token]) for ids in reversed(levels)]
        order.append(tuple(firsts))
    return [sorted(set(order)).index(key) for key in order]


# --- small pieces -----------------------------------------------------------------------------------------------------


def positions(height: int, width: int, dims: int, trained: Grid | None = None) -> Tensor:
    """Compute fixed sine-cosine positions (N, dims): sines and cosines of the column, then of the row.

    A token's coordinate is that of its centre, measured in tokens of the trained grid.
    """
    quarter = dims // 4
    rows, columns = trained or (height, width)
    table = torch.empty(height * width, dims, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            for axis, value in enumerate(((x + 0.5) * columns / width - 0.5, (y + 0.5) * rows / height - 0.5)):
                for i in range(quarter):
                    angle = value / 10000 ** (i / quarter)
                    table[y * width + x, axis * 2 * quarter + i] = math.sin(angle)
                    table[y * width + x, axis * 2 * quarter + quarter + i] = math.cos(angle)
    # The models keep positions in float32, and so does this table, so that float64 comparisons can be tight.
    return table.float().double()


def patch(image: Tensor, n: int, p: int) -> Tensor:
    """Cut patch ``n`` out of an image (C, H, W): (C, P, P)."""
    columns = image.shape[2] // p
    y, x = n // columns * p, n % columns * p
    return image[:, y : y + p, x : x + p]


def flat_patch(image: Tensor, n: int, p: int) -> Tensor:
    """Flatten patch ``n`` to P * P * C numbers: row by row, pixel by pixel, channel by channel."""
    cut = patch(image, n, p)
    return torch.stack([cut[c, y, x] for y in range(p) for x in range(p) for c in range(len(cut))])


def target(image: Tensor, n: int, p: int, norm_pix: bool) -> Tensor:
    """Return what the prediction of patch ``n`` is compared with."""
    numbers = flat_patch(image, n, p)
    if not norm_pix:
        return numbers
    mean = sum(numbers) / len(numbers)
    variance = sum((v - mean) ** 2 for v in numbers) / (len(numbers) - 1)
    return (numbers - mean) / (variance + EPS) ** 0.5


def linear(state: State, name: str, x: Tensor) -> Tensor:
    """Apply a linear layer, with or without bias, to one vector."""
    y = state[f'{name}.weight'].flatten(1) @ x
    return y + state[f'{name}.bias'] if f'{name}.bias' in state else y


def norm(state: State, name: str, x: Tensor) -> Tensor:
    """Apply a layer norm to one vector."""
    centred = x - x.mean()
    return centred / ((centred**2).mean() + EPS) ** 0.5 * state[f'{name}.weight'] + state[f'{name}.bias']


def feed_forward(state: State, name: str, x: Tensor) -> Tensor:
    """Apply two linear layers with a GELU between them to one vector."""
    y = linear(state, f'{name}.layers.0.0', x)
    return linear(state, f'{name}.layers.1', y * (1 + torch.erf(y / 2**0.5)) / 2)


def attend(query: Tensor, keys: list[Tensor], values: list[Tensor], heads: int) -> Tensor:
    """Attend from one query to a list of keys, each head on its own part of the channels."""
    d = len(query) // heads
    parts = []
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        weights = [math.exp(float(query[part] @ key[part]) / d**0.5) for key in keys]
        parts.append(sum(w / sum(weights) * value[part] for w, value in zip(weights, values, strict=True)))
    return torch.cat(parts)


def thirds(state: State, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project one vector to query, key and value."""
    return linear(state, f'{name}.qkv', x).chunk(3)


# --- the model (section 4) --------------------------------------------------------------------------------------------


def count_layers(state: State, prefix: str) -> int:
    """Count the layers below ``prefix`` in a state dict."""
    return len({key[len(prefix) :].split('.')[0] for key in state if key.startswith(prefix)})


def embed(state: State, image: Tensor, n: int, p: int, table: Tensor) -> Tensor:
    """Embed patch ``n``: projection plus position."""
    return linear(state, 'backbone.patch_embed.projection', patch(image, n, p).flatten()) + table[n]


def encoder_layer(state: State, name: str, x: Vectors, rank: list[int], heads: int) -> Vectors:
    """Apply one encoder layer: a token attends to tokens of its own and of earlier segments."""
    projected = {n: thirds(state, f'{name}.attn', norm(state, f'{name}.ln1', x[n])) for n in x}
    out = {}
    for n in x:
        allowed = [m for m in x if rank[m] <= rank[n]]
        mixed = attend(projected[n][0], [projected[m][1] for m in allowed], [projected[m][2] for m in allowed], heads)
        y = x[n] + linear(state, f'{name}.attn.proj', mixed)
        out[n] = y + feed_forward(state, f'{name}.ffn', norm(state, f'{name}.ln2', y))
    return out


def encode(
    state: State, image: Tensor, rank: list[int], p: int, heads: int, trained: Grid | None = None
) -> list[Vectors]:
    """Encode all segments but the last; return the hidden states of all layers."""
    columns = image.shape[2] // p
    table = positions(len(rank) // columns, columns, len(state['backbone.patch_embed.projection.bias']), trained)
    x = {n: embed(state, image, n, p, table) for n in range(len(rank)) if rank[n] < max(rank)}
    hidden = []
    for layer in range(count_layers(state, 'backbone.layers.')):
        x = encoder_layer(state, f'backbone.layers.{layer}', x, rank, heads)
        hidden.append(x)
    if 'backbone.ln1.weight' in state:
        hidden[-1] = {n: norm(state, 'backbone.ln1', v) for n, v in x.items()}
    return hidden


def memories(state: State, hidden: list[Vectors], decoder_layers: int, memory_norm: str) -> list[Vectors]:
    """Mix the encoder's hidden states for every decoder layer: Z^l = sum over k of W[k, l] H^k."""
    if 'neck.skip.weight' not in state:
        return [hidden[-1]] * decoder_layers
    result = []
    for layer in range(decoder_layers):
        mixed = {}
        for n in hidden[0]:
            z = torch.zeros_like(hidden[0][n])
            for k, h in enumerate(hidden):
                v = norm(state, f'neck.skip.norms.{k}', h[n]) if memory_norm == 'before' else h[n]
                z = z + state['neck.skip.weight'][k, layer] * v
            mixed[n] = norm(state, f'neck.skip.norms.{layer}', z) if memory_norm == 'after' else z
        result.append(mixed)
    return result


def decoder_layer(
    state: State, name: str, x: Vectors, memory: Vectors, rank: list[int], heads: int, norm_position: str
) -> Vectors:
    """Apply one decoder layer: own and earlier queries, then the memory of strictly earlier segments."""

    def before(place: str, v: Tensor) -> Tensor:
        return norm(state, f'{name}.{place}', v) if norm_position == 'pre' else v

    def after(place: str, v: Tensor) -> Tensor:
        return norm(state, f'{name}.{place}', v) if norm_position == 'post' else v

    projected = {n: thirds(state, f'{name}.self_attn', before('ln1', x[n])) for n in x}
    read = {m: linear(state, f'{name}.cross_attn.kv', z).chunk(2) for m, z in memory.items()}
    out = {}
    for n in x:
        allowed = [m for m in x if rank[m] <= rank[n]]
        mixed = attend(projected[n][0], [projected[m][1] for m in allowed], [projected[m][2] for m in allowed], heads)
        y = after('ln1', x[n] + linear(state, f'{name}.self_attn.proj', mixed))
        allowed = [m for m in memory if rank[m] < rank[n]]
        query = linear(state, f'{name}.cross_attn.q', before('ln2', y))
        mixed = attend(query, [read[m][0] for m in allowed], [read[m][1] for m in allowed], heads)
        y = after('ln2', y + linear(state, f'{name}.cross_attn.proj', mixed))
        out[n] = after('ln3', y + feed_forward(state, f'{name}.ffn', before('ln3', y)))
    return out


def predict(
    state: State,
    image: Tensor,
    rank: list[int],
    *,
    p: int,
    encoder_heads: int,
    decoder_heads: int,
    memory_norm: str = 'before',
    norm_position: str = 'pre',
    trained: Grid | None = None,
) -> Vectors:
    """Predict all segments but the first with encoder and decoder."""
    hidden = encode(state, image, rank, p, encoder_heads, trained)
    columns = image.shape[2] // p
    dims = len(state['neck.layers.0.ln1.weight'])
    table = positions(len(rank) // columns, columns, dims, trained)
    layers = count_layers(state, 'neck.layers.')
    x = {n: table[n] for n in range(len(rank)) if rank[n] > 0}
    for layer, memory in enumerate(memories(state, hidden, layers, memory_norm)):
        x = decoder_layer(state, f'neck.layers.{layer}', x, memory, rank, decoder_heads, norm_position)
    if norm_position == 'pre':
        x = {n: norm(state, 'neck.ln', v) for n, v in x.items()}
    return {n: linear(state, 'head.proj', v) for n, v in x.items()}


def predict_two_stream(
    state: State, image: Tensor, rank: list[int], *, p: int, encoder_heads: int, trained: Grid | None = None
) -> Vectors:
    """Predict all segments but the first with the second stream of the encoder itself (appendix A.3)."""
    columns = image.shape[2] // p
    table = positions(len(rank) // columns, columns, len(state['backbone.patch_embed.projection.bias']), trained)
    content = {n: embed(state, image, n, p, table) for n in range(len(rank)) if rank[n] < max(rank)}
    query = {n: table[n] for n in range(len(rank)) if rank[n] > 0}
    for layer in range(count_layers(state, 'backbone.layers.')):
        name = f'backbone.layers.{layer}'
        read = {m: thirds(state, f'{name}.attn', norm(state, f'{name}.ln1', v)) for m, v in content.items()}
        advanced = {}
        for n, g in query.items():
            allowed = [m for m in content if rank[m] < rank[n]]
            q = thirds(state, f'{name}.attn', norm(state, f'{name}.ln1', g))[0]
            mixed = attend(q, [read[m][1] for m in allowed], [read[m][2] for m in allowed], encoder_heads)
            y = g + linear(state, f'{name}.attn.proj', mixed)
            advanced[n] = y + feed_forward(state, f'{name}.ffn', norm(state, f'{name}.ln2', y))
        query = advanced
        content = encoder_layer(state, name, content, rank, encoder_heads)
    if 'backbone.ln1.weight' in state:
        query = {n: norm(state, 'backbone.ln1', g) for n, g in query.items()}
    return {n: linear(state, 'head.proj', g) for n, g in query.items()}


def loss(predictions: list[Vectors], images: Tensor, p: int, norm_pix: bool) -> float:
    """Average the squared error over every number of every predicted patch of every image."""
    errors = []
    for pred, image in zip(predictions, images, strict=True):
        for n, v in pred.items():
            errors += ((v - target(image, n, p, norm_pix)) ** 2).tolist()
    return sum(errors) / len(errors)
