"""A long run on several processes, killed and resumed again and again, compared with a straight one."""

import argparse
import tempfile
import time
from pathlib import Path

from hf_sparse import Recipe
from hf_sparse.crash_test.job import Job
from hf_sparse.crash_test.moments import SAVE, STEP, UPDATE
from hf_sparse.crash_test.verify import Death, Verification, verify_resume
from measuring import write_results

# Pruning with revival and a rewound learning rate, a teacher of logits and hidden states, 8 bits.
CHANGES = ["distillation.hidden=0.5", "quantization={begin: 25%, freeze: 80%}"]
SAVE_STEPS, EVERY = 10, 10


def described(death: Death) -> str:
    who = "all processes" if death.kill.everybody else f"process {death.kill.rank}"
    return f"{death.kill.moment.where}, {who}, inside {death.inside}; resumed from step {death.checkpoint}"


def rows(found: Verification) -> list[dict[str, object]]:
    """Return a line for each kind of moment, and one for all."""
    result = []
    for where in (STEP, UPDATE, SAVE, "all"):
        deaths = [death for death in found.deaths if where in (death.kill.moment.where, "all")]
        result.append(
            {
                "killed in": where,
                "one process": sum(not death.kill.everybody for death in deaths),
                "all processes": sum(death.kill.everybody for death in deaths),
                "recovered": len(deaths),
                "steps taken again": sum(
                    death.kill.moment.step - (death.kill.moment.where == STEP) - death.checkpoint
                    for death in deaths
                ),
            }
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recipe = Recipe.preset("prune_ofa_90").override(CHANGES)
    job = Job(
        recipe.to_dict(),
        max_steps=options.steps,
        seed=options.seed,
        processes=options.processes,
        save_steps=SAVE_STEPS,
    )
    began = time.perf_counter()

    def heard(death: Death) -> None:
        seconds = time.perf_counter() - began
        print(f"{seconds:7.0f} s  step {death.kill.moment.step}: {described(death)}", flush=True)

    with tempfile.TemporaryDirectory(prefix="hf_sparse_soak_") as home:
        found = verify_resume(job, Path(home), options.kills, options.seed, EVERY, heard)
    if not found.passed:
        raise SystemExit(
            f"the killed run is not the straight one: step {found.step}, process {found.rank}, "
            f"{found.difference}; {found.faults}"
        )
    settings = {
        "recipe": f"prune_ofa_90 with {', '.join(CHANGES)}",
        "model": "a tiny BERT of 2 layers",
        "steps": options.steps,
        "processes": options.processes,
        "seed": options.seed,
        "checkpoints every": SAVE_STEPS,
        "states compared, bit for bit": found.compared,
        "states that differ": 0,
        "checkpoints not whole": 0,
        "files left behind": 0,
        "seconds straight": round(found.seconds_straight),
        "seconds with kills": round(found.seconds_killed),
        "each kill, by step": {f"{death.kill.moment.step}": described(death) for death in found.deaths},
    }
    columns = ["killed in", "one process", "all processes", "recovered", "steps taken again"]
    write_results("soak", "A long run that is killed again and again", rows(found), settings, columns)
    print(settings)


if __name__ == "__main__":
    main()
