"""Speed-up of sparsity patterns in the CPU runtime: a layer of BERT-base, as `plan --speed` shows it."""

from hf_sparse.benchmark.latency import limited
from hf_sparse.planning.pattern_speedup import SPARSITIES, measure_speedup
from hf_sparse.runtime.bindings import load_kernels
from measuring import instructions, write_results


def main() -> None:
    kernels = load_kernels()
    if kernels is None:
        raise RuntimeError("the kernels need a C++ compiler; install one")
    with limited(1):
        speedup = measure_speedup(kernels)
    rows = [
        {"pattern": name, **{f"{share:.0%} zeros": round(times[share], 2) for share in SPARSITIES}}
        for name, times in speedup.times.items()
    ]
    settings = {
        "layer": f"{speedup.shape[0]} x {speedup.shape[1]}, {speedup.tokens} tokens",
        "path": speedup.path,
        "threads": 1,
        "dense in 8 bits, ms": round(speedup.dense * 1e3, 2),
        "PyTorch in float32, ms": round(speedup.floats * 1e3, 2),
    }
    fastest = instructions()
    print(
        write_results(
            f"patterns_{fastest}", f"What patterns buy with {fastest}", rows, settings, list(rows[0])
        )
    )


if __name__ == "__main__":
    main()
