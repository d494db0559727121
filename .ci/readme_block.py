"""Print a block of commands of README.md, as it stands there.

python .ci/readme_block.py first    what a newcomer types first
python .ci/readme_block.py test     how to run the tests
"""

import re
import sys
from pathlib import Path

readme = (Path(__file__).parents[1] / "README.md").read_text()
if sys.argv[1] == "test":
    readme = readme.split("\n## Test\n")[1]
print(re.search(r"```bash\n(.*?)```", readme, re.S)[1], end="")
