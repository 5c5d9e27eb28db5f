import sys
import tempfile
from pathlib import Path

from tests.fuzz import fuzz

mutants = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
with tempfile.TemporaryDirectory() as folder:
    seen = fuzz(mutants, seed, Path(folder))
for name, (headers, refusals) in seen.items():
    print(f"{name:8} {headers:9,} headers {refusals:9,} refusals")
print(f"{mutants:,} mutants, seed {seed}: every one gave a header or a reason, none was read outside its bounds")
