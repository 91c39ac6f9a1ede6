"""Print the size of the spaces that `make test` searches, and whatever is violated in them.

PYTHONPATH=daemon:tests python -m explore
"""

from explore.faults import FAULTS
from explore.scenarios import SHALLOW
from explore.search import Search

states = steps = 0
for scenario in SHALLOW:
    found = Search(scenario).run()
    states, steps = states + found.states, steps + found.steps
    print(found, *found.violations.values(), sep="\n")
print(f"{len(SHALLOW)} scenarios: {states} states, {steps} steps")
for fault in FAULTS:
    found = Search(fault.scenario, fault.decisions, first_only=True).run()
    print(f"{'found' if found.violations else 'MISSED'}: {fault.words}")
