"""The conclude stage: how a run ended, and how it is resumed."""

from pathlib import Path

SUCCEEDED = "SUCCEEDED"
HOW_TO_GO_ON = """\
The log of the task that failed ends with one line that says why:

```
kubectl logs -n kubeflow -l pipeline/runid={run_id} -c main --tail=20 --prefix
```

## How to go on

What is done is not done again.

- If nothing is to change, press **Retry** on the run's page. The fine-tune goes on from its last
  checkpoint.
- To change something, press **Clone run**, or give the command that started the run again. What the
  change does not touch comes from the cache, and a fine-tune that it does not touch goes on from
  its last checkpoint if it is told where that is:

  ```
  checkpoints={checkpoints}
  ```
"""


def conclude(state: str, error: str, run_id: str, checkpoints: str, target: Path | str) -> None:
    """Write how a run ended as a Markdown page, and print the same.

    Args:
        state: KFP's word for it: SUCCEEDED, FAILED, CANCELLED.
        error: what KFP says of the failure; empty if nothing failed.
        run_id: KFP's id of the run.
        checkpoints: where the user had the fine-tune keep its checkpoints; empty = its own place.
        target: the file to write.
    """
    text = page(state, error, run_id, checkpoints)
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    print(text, flush=True)


def page(state: str, error: str, run_id: str, checkpoints: str) -> str:
    """Return the page of `conclude`."""
    heading = f"# Run {state.lower()}\n\n`{run_id}`\n\n"
    if state == SUCCEEDED:
        return heading + "The card of publish and the report of evaluate say what came of it.\n"
    said = f"{' '.join(error.split())}\n\n" if error else ""
    place = checkpoints or "<what the log of finetune names at its start>"
    return heading + said + HOW_TO_GO_ON.format(run_id=run_id, checkpoints=place)
