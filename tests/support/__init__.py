"""Helpers of the tests, by purpose. Fixtures are in the ``conftest.py`` of each folder.

=====================  =========================================================================
processes              the command, Python code or a file, run here or in a separate process
killed_caches          prompt caches that a killed process writes
warm_process           the command in forks that have its libraries imported already
fork_server            many short programs without starting Python for each
killed_packs           programs for it: packing that is killed, or meets a full disk
terminal               the chat in a terminal, and what its screen shows
scripted_chat          the command with a model that writes prepared answers
scripted_model         the same in this process; and a model without weights
live_server            ``flash-moe serve`` in a process, and ways to ask it
resident               the reference, resident mlx-lm; budgets by name, and prompts
architectures          tiny models of mlx-lm's other architectures, from ``model_configs``
muse_spark_on_cpu      plain MLX instead of the Metal kernels of one of them
family_memory          the peak of a process that runs each of them with ``memory_gb``
hf_originals           checkpoints in the Hugging Face format of several architectures
empty_store            a store with everything but weights
directories            all bytes of a directory, and how two directories differ
fuzzing                damaged bytes and JSON, and what an error must look like
bank_requests          experts fetched through a bank, each byte compared
fake_reader            a reader without a disk, for the reader threads
read_gate              reads that wait until a test lets them through
faulty_disk            reads that fail, are short or slow, below the real reader
reference_policy       eviction policies as they are defined, slow and simple
routing_samples        routing drawn at random
trace_events           a time line, read and checked
grammar_sampling       answers drawn at random under a grammar, and their checks
json_schemas           schemas and tools for them
tool_call_formats      one call in each format that mlx-lm parses
hub.fake_hub           a hub on this machine; ``hub.faults`` has what goes wrong with it
hub.client             huggingface_hub made to talk to it
hub.pulls              pulls from it
hub.checkpoints        checkpoints to publish there; ``hub.empty_checkpoints`` have no bytes
metal_emulator         Metal kernels run on a CPU; see ``tests/metal/README.md``
sample_kernels         a kernel for its own tests; ``mlx_sources`` loads those of mlx and mlx-lm
effort                 few repetitions by default, all with ``--full``
timeout                how long to wait at most
tiers                  finds the tier of each test, and guards the fast one
=====================  =========================================================================
"""
