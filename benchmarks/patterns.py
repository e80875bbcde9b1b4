"""What patterns buy at each sparsity in the CPU runtime: a layer of BERT-base, as `plan --speed` shows."""

from hf_sparse.benchmark.latency import limited
from hf_sparse.runtime.gains import SPARSITIES, measure_gains
from hf_sparse.runtime.library import load_kernels
from measuring import write_results


def main() -> None:
    kernels = load_kernels()
    if kernels is None:
        raise RuntimeError("there is no C++ compiler, so there is nothing to measure")
    with limited(1):
        gains = measure_gains(kernels)
    rows = [
        {"pattern": name, **{f"{share:.0%} zeros": round(times[share], 2) for share in SPARSITIES}}
        for name, times in gains.times.items()
    ]
    settings = {
        "layer": f"{gains.shape[0]} x {gains.shape[1]}, {gains.tokens} tokens",
        "path": gains.path,
        "threads": 1,
        "dense in 8 bits, ms": round(gains.dense * 1e3, 2),
        "PyTorch in float32, ms": round(gains.floats * 1e3, 2),
    }
    print(write_results("patterns", "What patterns buy", rows, settings, list(rows[0])))


if __name__ == "__main__":
    main()
