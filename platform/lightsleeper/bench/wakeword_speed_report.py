"""The tables of `lightning bench wakeword --part speed`, and what they say about the bars."""

from collections.abc import Iterator
from typing import Any

from lightsleeper.bench.engine_clock import FORMS
from lightsleeper.bench.timing import shown
from lightsleeper.bench.wakeword_nets import FOLDED, MEMORY_MS, NARROW

EQUAL = 1e-5
BARS = {"32": 1.0, "320": 4.0}  # how many times as long as ours the engine takes, at least
RUNTIME, MEMORY = 10, 2  # claims of RepCNN against BC-ResNet, at equal accuracy (papers/repcnn 2)

Row = dict[str, Any]


def lines(result: Row) -> Iterator[str]:
    networks = result["networks"]
    yield (
        f"speed: untrained weights; microseconds of the processor a call, median (10th-90th percentile) of "
        f"{result['rounds']} rounds of {result['stretch_ms'] / 1000:g} s of audio, all in turns; the clock ran "
        f"{result['clock_over_processor']:.2f} times as long"
    )
    yield (
        f"{'':16}{'params':>9}{'file kB':>9}{'MMAC/s':>8}{'state B':>9}{'past ms':>9}{'hop ms':>8}"
        f"{'graph, 1 hop':>18}{'detector, 32 ms':>19}{'320 ms':>19}{'rtf 32':>9}{'rtf 320':>9}"
        f"{'network, 32 ms':>19}{'320 ms':>19}"
    )
    for name, row in networks.items():
        times = f"{_range(row['us']['hop']):>18}" + "".join(f"{_range(row['us'][chunk]):>19}" for chunk in BARS)
        alone = "".join(f"{_range(row['us'][f'network {chunk}']):>19}" for chunk in BARS)
        yield (
            f"{name:16}{row['parameters']:>9,}{row['file_bytes'] / 1000:>9.0f}{row['network_macs_per_s'] / 1e6:>8.1f}"
            f"{row['state_bytes']:>9,}{row['past_ms']:>9.0f}{row['hop_ms']:>8.0f}{times}"
            f"{row['rtf']['32']:>9.5f}{row['rtf']['320']:>9.5f}{alone}"
        )
    front = next(iter(networks.values()))["frontend_macs_per_s"]
    yield (
        f"MMAC/s are the network's; the front end adds {front / 1e6:.1f} to each; last columns: features in, as many "
        "as become whole hops with 32 and 320 ms"
    )
    worst = max(row["max_difference"] for row in networks.values())
    yield (
        f"file in chunks of 1, 2, 3 ... hops against the model on the whole: {worst:.1e}; equal to {EQUAL:.0e}: "
        f"{'yes' if worst <= EQUAL else 'NO'}"
    )
    yield from _memory(networks)
    yield from _claims(networks)
    if "engine" in result:
        yield from _engine(result["engine"], networks[FOLDED])


def _memory(networks: dict[str, Row]) -> Iterator[str]:
    for key, what in (("activation_bytes", "audio in"), ("network_activation_bytes", "features in, no front end")):
        yield (
            f"peak bytes of tensors in a call, {what}: counted on the graph | smallest arena in which ONNX Runtime "
            "runs it"
        )
        for name, row in networks.items():
            text = f"{name:16}"
            for ms in (f"{ms:g}" for ms in MEMORY_MS):
                cell = row[key][ms]
                measured = "unknown" if cell["measured"] is None else f"{cell['measured']:,}"
                text += f"{ms + ' ms':>10}{cell['computed']:>11,} |{measured:>10}"
            yield text


def _claims(networks: dict[str, Row]) -> Iterator[str]:
    for base in (FOLDED, NARROW):
        if base not in networks:
            continue
        yield (
            f"BC-ResNet against {base} (claims, at equal accuracy: {RUNTIME} times the run time, {MEMORY} times the "
            "peak memory): times as long | times the bytes, counted and in ONNX Runtime"
        )
        for name, row in networks.items():
            if name.startswith("BC-ResNet"):
                for what, times, memory in (
                    ("detector", "", "activation_bytes"),
                    ("network", "network ", "network_activation_bytes"),
                ):
                    yield f"{name:16}{what:10}{_against(row, networks[base], times, memory)}"


def _against(row: Row, base: Row, times: str, memory: str) -> str:
    long = (
        f"{chunk} ms {row['us'][times + chunk]['median'] / base['us'][times + chunk]['median']:.1f}" for chunk in BARS
    )
    many = []
    for ms in (f"{ms:g}" for ms in MEMORY_MS):
        theirs, ours = row[memory][ms], base[memory][ms]
        known = [kind for kind in ("computed", "measured") if theirs[kind] and ours[kind]]
        many.append(f"{ms} ms " + ", ".join(f"{theirs[kind] / ours[kind]:.1f}" for kind in known))
    return f"{', '.join(long)} | {'; '.join(many)}"


def _engine(engine: Row, ours: Row) -> Iterator[str]:
    yield f"{engine['engine']}, '{engine['keyword']}', frames of {engine['frame_ms']:g} ms, against RepCNN folded:"
    for chunk, bar in BARS.items():
        for form, text in FORMS.items():
            found = engine[form][chunk]
            ratio = found["detector"]
            yield (
                f"{chunk:>4} ms: {_range(found['us'])} us {text}, our detector {_range(ours['us'][chunk])}: "
                f"{_ratio(ratio)} times as long; bar {bar:g}: {'reached' if ratio['median'] >= bar else 'MISSED'}"
            )
        graph = ours["us"][f"graph {chunk}"]
        yield (
            f"{chunk:>4} ms: our graph without the detector around it {_range(graph)} us: {FORMS['function']} takes "
            f"{_ratio(engine['function'][chunk]['graph'])} times as long"
        )
    waits = {f"ours in {chunk} ms": wait for chunk, wait in ours["added_latency_ms"].items()}
    waits[f"engine in {engine['frame_ms']:g} ms"] = engine["added_latency_ms"]
    texts = (f"{name}: {wait['mean']:.0f} ms (at most {wait['worst']:.0f})" for name, wait in waits.items())
    yield f"from a sample to the call that scores it, on average: {'; '.join(texts)}"


def _range(times: Row) -> str:
    return shown(times, 0)


def _ratio(ratio: Row) -> str:
    return shown(ratio, 2)
