#!/usr/bin/env python3
"""junit_count.py NAME FILE: "passed failed skipped" of a JUnit file, then "NAME: test: reason" for each skip."""
import sys
import xml.etree.ElementTree as tree


def main():
    name, path = sys.argv[1:]
    try:
        cases = list(tree.parse(path).getroot().iter("testcase"))
    except (OSError, tree.ParseError):
        print("0 0 0")
        return
    failed = skipped = 0
    reasons = []
    for case in cases:
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif skip is not None or case.get("status") in ("notrun", "disabled"):
            skipped += 1
            why = (skip.get("message") or "") if skip is not None else ""
            # ctest knows only the exit status; the program said why.
            if not why or why.startswith("SKIP_RETURN_CODE"):
                lines = (case.findtext("system-out") or "").strip().splitlines() or ["no reason given"]
                why = ([line for line in lines if "skip" in line.lower()] or lines)[-1]
            reasons.append(f"{name}: {case.get('name')}: {why}")
    print(len(cases) - failed - skipped, failed, skipped)
    print("\n".join(reasons))


main()
