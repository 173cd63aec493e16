//! Large buffers that go back to the operating system when they are dropped.

/// From this length on an allocation has a mapping of its own with every common allocator, however often such
/// buffers were used before: glibc raises the limit with use, up to 32 MiB.
const MAPPED: usize = 33 * 1024 * 1024;
/// Buffers shorter than this come and go on the heap.
const LARGE: usize = 3 * 1024 * 1024;

/// An empty buffer with room for `len` bytes. A large one reserves more address space than it needs; memory is only
/// taken for what is written, and all of it is given back at once when the buffer is dropped, so that a process
/// that has done its work is small again.
pub(crate) fn with_room(len: usize) -> Vec<u8> {
    Vec::with_capacity(if len < LARGE { len } else { len.max(MAPPED) })
}
