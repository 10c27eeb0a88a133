"""The page of a report: whole without a network, right in a browser, and the published form of what is behind it."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sottovoce.__main__ import main
from sottovoce.devices import json_schema
from sottovoce.devices.page import render
from sottovoce.devices.profile import profile_bundle
from sottovoce.devices.report import Profile, read_profile

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
PROBE = """<script>addEventListener("load", () => {
  const body = getComputedStyle(document.body), charts = [...document.querySelectorAll("svg")].map(s => s.clientWidth);
  const text = document.createRange();
  const lines = cell => (text.selectNodeContents(cell), text.getClientRects());
  const words = [...document.querySelectorAll("td")].filter(cell => !/\\s/.test(cell.textContent.trim()));
  const broken = words.filter(cell => lines(cell).length > 1).map(cell => cell.textContent);
  const found = {broken, wide: document.documentElement.scrollWidth, ink: body.color, ground: body.backgroundColor};
  found.charts = charts;
  document.title = JSON.stringify(found);
})</script>"""
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def report(tiny_bundle: Path) -> Profile:
    return profile_bundle(tiny_bundle, "hello there", runs=1, threads=1)


def test_a_page_needs_nothing_but_itself(report: Profile) -> None:
    page = render([report])
    assert not re.search(r'(src|href)="(?!#)[^"]*"', page.replace('href="#', 'href="#'))
    assert "http" not in re.sub(r'xmlns[:a-z]*="[^"]*"', "", page)
    assert page.count("<svg") == 2
    assert "currentColor" in page
    assert "GroupQueryAttention" in page
    for term in ("weights mapped", "cache", "arena", "unexplained"):
        assert term in page


def test_what_a_report_says_is_no_markup(report: Profile) -> None:
    page = render([replace(report, bundle="<script>alert(1)</script>")])
    assert "<script" not in page


def test_reports_stand_side_by_side(report: Profile, tmp_path: Path, capsys) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(replace(report, bundle=f"bundle {name}").to_json())
    paths = [str(tmp_path / f"{name}.json") for name in ("a", "b")]
    assert main(["profile", "--compare", *paths, "--html", str(tmp_path / "page.html")]) == 0
    assert "bundle a" in (out := capsys.readouterr().out)
    assert "bundle b" in out
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 4
    assert "repeat(2, minmax(0, 1fr))" in page
    assert main(["profile"]) == 2


def test_a_report_without_readings_has_a_page(report: Profile) -> None:
    spare = replace(report, samples=(), operators=(), terms=None, utterances=(replace(report.utterances[0], steps=()),))
    page = render([spare])
    assert "not sampled" in page
    assert "gave no account" in page


def test_the_published_form_is_that_of_the_code() -> None:
    path = Path(__file__).parents[2] / "devices" / "profile.schema.json"
    assert json.loads(path.read_text()) == json_schema.json_schema()


def test_reports_are_of_the_published_form(report: Profile) -> None:
    check(json.loads(report.to_json()), {"$ref": "#/$defs/Profile"}, json_schema.json_schema()["$defs"])


def check(value, form, definitions) -> None:
    """What of JSON Schema the published form uses."""
    if "$ref" in form:
        return check(value, definitions[form["$ref"].removeprefix("#/$defs/")], definitions)
    if "anyOf" in form:
        return any_of(value, form["anyOf"], definitions)
    if "enum" in form:
        assert value in form["enum"]
        return None
    kinds: dict[str, Any] = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    assert isinstance(value, kinds.get(form["type"], dict | list)), (value, form)
    if form["type"] == "array":
        for item in value:
            check(item, form["items"], definitions)
    if form["type"] == "object":
        known = form.get("properties", {})
        assert set(form.get("required", [])) <= set(value)
        for name, item in value.items():
            check(item, known.get(name, form["additionalProperties"]), definitions)
    return None


def any_of(value, forms, definitions) -> None:
    errors = []
    for form in forms:
        try:
            return check(value, form, definitions)
        except (AssertionError, TypeError) as error:
            errors.append(error)
    raise AssertionError(errors)


@pytest.mark.skipif(BROWSER is None, reason="no headless Chromium (apt-get install chromium-headless-shell)")
@pytest.mark.parametrize(
    ("name", "width", "dark"), [("desktop", 1280, False), ("phone", 390, False), ("dark", 1280, True)]
)
def test_it_is_seen_in_a_browser(report: Profile, tmp_path: Path, name: str, width: int, dark: bool) -> None:
    """Rendered whole: nothing is wider than the window, text is legible, charts are there.

    SOTTOVOCE_REPORT shows another report, SOTTOVOCE_SCREENSHOTS keeps the pictures: devices/screenshots are made so.
    """
    if "SOTTOVOCE_REPORT" in os.environ:
        report = read_profile(Path(os.environ["SOTTOVOCE_REPORT"]))
    page = render([report])
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE + "</body>"))
    assert BROWSER
    options = [
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},2400",
        "--hide-scrollbars",
    ]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    url = f"file://{tmp_path / 'page.html'}"
    dump = subprocess.run([BROWSER, *options, "--dump-dom", url], capture_output=True, text=True, timeout=300)
    title = re.search(r"<title>(.*?)</title>", dump.stdout)
    assert title
    found = json.loads(title[1].replace("&quot;", '"'))
    assert found["wide"] <= width
    assert found["broken"] == []
    assert len(found["charts"]) == 2
    assert min(found["charts"]) > 0.5 * min(width, 700)
    assert (brightness(found["ink"]) > brightness(found["ground"])) is dark
    shot = Path(os.environ.get("SOTTOVOCE_SCREENSHOTS", tmp_path)) / f"report-{name}.png"
    subprocess.run([BROWSER, *options, f"--screenshot={shot}", url], capture_output=True, timeout=300, check=True)
    assert shot.stat().st_size > 20_000


def brightness(colour: str) -> float:
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3])
