"""judge.py RESULTS GOOD BAD: lines whose answer is JSON (perhaps in a Markdown fence) to GOOD, all others to BAD."""
import json
import sys


def is_good(line):
    try:
        response = json.loads(line)["response"]
        choice = response["body"]["choices"][0]
        answer = choice["message"]["content"]
        if response["status_code"] != 200 or choice["finish_reason"] != "stop":
            return False
        if answer.startswith("```json\n") and answer.endswith("\n```"):
            answer = answer[8:-4]
        json.loads(answer)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


results, good_path, bad_path = sys.argv[1:]
with open(results, "rb") as lines, open(good_path, "wb") as good, open(bad_path, "wb") as bad:
    for line in lines:
        (good if is_good(line) else bad).write(line)
