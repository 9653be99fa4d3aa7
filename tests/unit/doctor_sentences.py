"""What the doctor says of each broken set-up, sentence by sentence: doctor_sentences.json.

The tables of the tests of the doctor hold what a sentence must have in it. This file holds the
whole of it, so that nobody makes one worse by accident: who changes a sentence changes it here too,
and reads the two side by side in the commit. An entry is verdict, check, what is wrong, next step.

To write what is said now: set `RELAY_WRITE_SENTENCES` and run the tests of the doctor.
"""

import json
import os
import re
from pathlib import Path

from relay.tools.doctor.finding import Finding

FILE = Path(__file__).with_suffix(".json")
SENTENCES: dict[str, list[str]] = json.loads(FILE.read_text("utf-8"))
WRITES = "RELAY_WRITE_SENTENCES" in os.environ


def assert_told(set_up: str, finding: Finding) -> None:
    """Hold a finding against the sentence of the set-up that it is of."""
    texts = [_constant(text) for text in (finding.message, finding.fix)]
    told = [str(finding.verdict), finding.check, *texts]
    if WRITES:
        SENTENCES[set_up] = told
        entries = (f"  {_json(name)}: {_json(said)}" for name, said in sorted(SENTENCES.items()))
        FILE.write_text("{\n" + ",\n".join(entries) + "\n}\n", "utf-8")
    assert told == SENTENCES.get(set_up), f"{set_up}: is it as good as before? {FILE.name}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _constant(text: str) -> str:
    """Return a sentence without ports, dates and numbers of queues: each run has others."""
    text = re.sub(r"\boutbox-\d+", "outbox", text)
    text = re.sub(r"\b(localhost|127\.0\.0\.1):\d+", r"\1:PORT", text)
    return re.sub(r"\b\d{4}-\d\d-\d\d\b", "DATE", text)
