"""livekv: LLaMA-family models whose key/value cache is compressed while the prompt streams in.

    import livekv

    model = livekv.Model("model.gguf")
    session = model.session(n_ctx=8192, kv=livekv.KVOptions.preset("small"))
    text = session.generate("Once upon a time", max_tokens=100)
    for piece in text:
        print(piece, end="", flush=True)
    print(text.usage, session.kv_stats().bits_per_value)

What goes wrong is a `livekv.Error` with one line that says what and, where it can, what to do. Long calls release the
interpreter's lock, and Ctrl-C ends them after the chunk or token at hand. A model may be shared by threads; a session
belongs to one call at a time. `livekv.Engine` advances several sessions in one pass. A program may end while a
daemon thread is inside the engine: the thread goes no further.
"""

from livekv import kv
from livekv._livekv import Error, __version__
from livekv.engine import Engine
from livekv.fidelity import Fidelity, fidelity
from livekv.generation import Generation, Usage
from livekv.model import Model
from livekv.options import KVOption, KVOptions, kv_options_table, parse_kv_list
from livekv.sampling import Lookup, Sampler, TextStream
from livekv.session import Session
from livekv.stats import KVBytes, KVStats
from livekv.store import ChunkStore, StoredPiece
from livekv.system import default_threads, peak_rss, system_info

__all__ = [
    "ChunkStore",
    "Engine",
    "Error",
    "Fidelity",
    "Generation",
    "KVBytes",
    "KVOption",
    "KVOptions",
    "KVStats",
    "Lookup",
    "Model",
    "Sampler",
    "Session",
    "StoredPiece",
    "TextStream",
    "Usage",
    "__version__",
    "default_threads",
    "fidelity",
    "kv",
    "kv_options_table",
    "parse_kv_list",
    "peak_rss",
    "system_info",
]
