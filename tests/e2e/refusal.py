"""What every refusal under /v1 looks like: a status, a sentence, a code, and nothing of the daemon's insides."""
import re

CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 405: "METHOD", 408: "TIMEOUT", 411: "LENGTH_REQUIRED", 413: "TOO_LARGE",
         415: "UNSUPPORTED_MEDIA", 422: "FAILED_PRECONDITION", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE",
         504: "DEADLINE_EXCEEDED"}
INSIDES = re.compile(r"memfd|/dev/shm|/proc/|attn_|0x[0-9a-f]{6,}|\.c:\d|nullptr|\(null\)")


def check(answer, status, *words):
    """`status` may be a tuple where more than one is right. `words`: what the sentence must mention."""
    allowed = status if isinstance(status, tuple) else (status,)
    assert answer is not None, f"closed without an answer; expected {status}"
    assert answer.status in allowed, answer
    assert answer.headers["content-type"].startswith("application/json"), answer.headers
    error = answer.json()
    assert set(error) >= {"error", "code", "request_id", "retryable"}, error
    assert set(error) <= {"error", "code", "request_id", "retryable", "missing"}, error
    sentence = error["error"]
    assert isinstance(sentence, str) and len(sentence) > 10, error
    assert error["code"] == CODES[answer.status], error
    assert error["request_id"] and isinstance(error["request_id"], str)
    assert error["retryable"] is (answer.status in (408, 503)) or answer.status in (408, 504), error
    assert not INSIDES.search(sentence), sentence
    for word in words:
        assert word.lower() in sentence.lower(), f"{word!r} is not in: {sentence}"
    return error
