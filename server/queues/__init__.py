"""How requests reach workers: in this process, or through Redis Streams. One contract."""
