"""Open a page in headless Chromium, act on it by a script, and read what it then shows."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--enable-logging=stderr"),
)
# Runs after the page's own script. `show` is where a test's script leaves its values.
_PROBE = """
<script>
const show = {ready: performance.now()};
try {
%s
} catch (error) { console.error(`probe: ${error}`); }
const probe = make("pre", JSON.stringify(show));
probe.id = "probe";
document.body.append(probe);
</script>
"""


def opened(path, script, *, address="", flags=()):
    """Return what `script` leaves in `show`, with the page's console messages as `console`.

    The page is opened from a file and cannot reach a network. address: what follows the `#`.
    """
    page = path.read_text(encoding="utf-8")
    probed = path.with_name(f"{path.stem}-probed.html")
    probed.write_text(page.replace("</body>", f"{_PROBE % script}</body>"), encoding="utf-8")
    done = _chromium(path, *flags, "--dump-dom", f"{probed.as_uri()}#{address}")
    shown = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert shown, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(html.unescape(shown[1])), "console": console}


def screenshot(path, target, *, address="", size=(1300, 1500)):
    """Save a picture of the page."""
    window = f"--window-size={size[0]},{size[1]}"
    _chromium(path, window, f"--screenshot={target}", f"{path.as_uri()}#{address}")


def _chromium(path, *arguments):
    profile = f"--user-data-dir={path.parent / 'chromium'}"
    command = [CHROMIUM, *_FLAGS, profile, "--host-resolver-rules=MAP * ~NOTFOUND", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
