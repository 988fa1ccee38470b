"""The conclude stage: how a run ended, what came of it or what failed, and how to continue."""

from pathlib import Path

from components.conclude.kfp_api import Cluster, this_cluster
from components.shared.findings.results import KNOWING, kept_results, results_of
from components.shared.telling.kfp_run import Run, own_last_line
from components.shared.telling.markdown import names_as_code

DONE = ("SUCCEEDED", "COMPLETE", "CACHED")
"""KFP's driver passes the last two on, its local runner the first."""
PAGES = {
    "compare": "`report`, the priors side by side",
    "evaluate": "`report`, every metric beside its baselines and the ceiling; `explorer`, to look "
    "up a gene",
    "publish": "`card`, the model card; `published`, the folder with all files",
    "publish-best": "`card`, the model card of the best run; `published`, its folder",
    "finetune": "`curves`, the loss by epoch",
}
"""Task to those of its outputs that people open, in the order in which one looks at them."""
WHERE_TO_LOOK = """
## Where to look

Click the box `run` of the graph, then a task in it:

{pages}
"""
UNREACHED = "could not be reached from here, or did not answer"

HOW_TO_GO_ON = """\
## How to continue

Finished work is not repeated.

- To continue without a change, press **Retry** on the run's page. The fine-tune resumes from its
  last checkpoint. KFP does not run this task a second time, so **this page then stays as it is**:
  the run's own page shows how the retried run ended.
- To change something, press **Clone run**, or repeat the command that started the run. Tasks that
  the change does not affect come from the cache, and a fine-tune that it does not affect resumes
  from its last checkpoint if you give its location:

  ```
  checkpoints={checkpoints}
  ```
"""
HOW_TO_GO_ON_HERE = """\
The task's own error line is further up in the log. Give the same command again once the cause is
fixed: finished work is not repeated.
"""
LOGS = """\
The log of a task that failed ends with one line that says why; some lines below it are KFP's:

```
kubectl logs -n {namespace} -l pipeline/runid={run_id} -c main --tail=200 --prefix | grep error:
```
"""


def conclude(state: str, error: str, run_id: str, checkpoints: str, target: Path | str) -> None:
    """Write how a run ended as a Markdown page, and print the same.

    Args:
        state: KFP's word for it: COMPLETE or SUCCEEDED, FAILED, CANCELED.
        error: what KFP says of the failure; a cluster's says nothing.
        run_id: KFP's id of the run.
        checkpoints: where the user had the fine-tune keep its checkpoints; empty = its own place.
        target: the file to write; on this machine it lies beside the other tasks' folders.
    """
    target, cluster = Path(target), this_cluster()
    if state in DONE:
        text = _success(run_id, cluster, target)
    else:
        text = _failure(state, error, run_id, checkpoints, cluster)
    text = names_as_code(text)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    print(text, flush=True)


def _success(run_id: str, cluster: Cluster | None, target: Path) -> str:
    kept = kept_results(target.parents[1])
    run = cluster.run(run_id, until=_knows) if cluster and not kept else None
    results = results_of(run, cluster.page, cluster.namespace) if run and cluster else kept
    nowhere = f"KFP {UNREACHED}" if cluster else "no task kept a result"
    lines = [f"- {line}" for line in results] or [
        f"What came of it: {nowhere}. The card of publish and the report of evaluate say it."
    ]
    return "\n".join([f"# Run succeeded\n\n`{run_id}`\n", *lines]) + "\n" + _pages(run)


def _pages(run: Run | None) -> str:
    """Return where the pages of a run on a cluster are; a run here ends with their paths."""
    there = {task.name for task in run.tasks()} if run else set()
    pages = [f"- `{name}`: {what}" for name, what in PAGES.items() if name in there]
    return WHERE_TO_LOOK.format(pages="\n".join(pages)) if pages else ""


def _knows(run: Run) -> bool:
    return any(task.name in KNOWING for task in run.tasks())


def _failure(state: str, error: str, run_id: str, checkpoints: str, cluster: Cluster | None) -> str:
    said = [f"# Run {state.lower()}\n\n`{run_id}`\n"]
    # KFP's local runner names the handler that all tasks stand in, which helps nobody.
    said += [f"{' '.join(error.split())}\n"] if error and "exit-handler" not in error else []
    if cluster is None:
        return "\n".join([*said, HOW_TO_GO_ON_HERE])
    failed, told = _failed_tasks(cluster, run_id)
    said += failed or [f"Which task failed: KFP {UNREACHED}; the run's page says it.\n"]
    if not told:
        said.append(LOGS.format(run_id=run_id, namespace=cluster.namespace))
    place = checkpoints or "<what the log of finetune names at its start>"
    return "\n".join([*said, HOW_TO_GO_ON.format(checkpoints=place)])


def _failed_tasks(cluster: Cluster, run_id: str) -> tuple[list[str], bool]:
    """Return a paragraph a task that failed, and whether each holds the task's own line."""
    run = cluster.run(run_id, until=lambda run: bool(run.failed_names()))
    if run is None:
        return [], False
    found = {task.name: task for task in run.tasks() if task.state == "FAILED"}
    paragraphs, told = [], True
    for name in run.failed_names():
        said = run.said(found[name], cluster.page, cluster.namespace) if name in found else ""
        line = own_last_line(said, name)
        told = told and bool(line)
        paragraphs.append(
            f"Task `{name}` failed:\n\n```\n{line}\n```\n"
            if line
            else f"Task `{name}` failed; why is in its log.\n"
        )
    return paragraphs, told and bool(paragraphs)
