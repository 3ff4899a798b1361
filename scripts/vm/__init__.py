"""An emulated machine with several NUMA nodes, on which this machine's files run.

    shape.py     --nodes 2+1 -> what the machine is made of
    parts.py     the emulator, a kernel and a first program: found, or fetched once into a cache
    image.py     what the kernel unpacks into memory and starts
    machine.py   boots it with a command, passes its output on, brings back its exit status
    refusal.py   runs a command that may not set a memory policy

The kernel is a distribution's own, and so its scheduler, allocator, cpusets and filters are the
real ones; the processors are emulated, ten to thirty times slower than this machine's. Where
threads and pages lie shows here; speed does not.
"""
