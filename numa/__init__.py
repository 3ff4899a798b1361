"""Where processors and memory are: topology, placement, pinning, binding, and what came of it.

In the order of use:
    topology.py     what the machine is (sysfs.py, cgroup.py and notation.py read its small files)
    placement.py    which CPUs and which memory each engine gets
    launch.py       puts a process there before it starts, by affinity.py and memory.py
    report.py       where its threads and pages really are

This file imports nothing: the launcher passes through it before every engine.
"""
