"""The online store: values of feature tables by key, embedded in each process that reads them, and updated from a stream.

One process writes and any number of processes read, on LMDB. `writer` applies events and stores the position in the stream in
the same transaction, `reader` answers look-ups, and `compare` compares answers with values that are computed from the log. The
store can be rebuilt from the stream at any time, so it needs no backup.
"""
