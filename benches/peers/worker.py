"""What the Python rivals share: the arguments, and a step at each line of stdin."""
import sys
import time


def arguments():
    """(precision, mode, model, K, batch size, threads)."""
    precision, mode, model, keep, batch, threads = sys.argv[1:7]
    return precision, mode, model, float(keep), int(batch), int(threads)


def serve(version, step):
    """Tells the version, then does `step` at each line and answers with its seconds."""
    print(version, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)


def kept_count(patches, keep):
    """k of Eq. 4: floor(K N / 100), at least 1."""
    return max(1, int(patches * keep / 100 + 1e-9))
