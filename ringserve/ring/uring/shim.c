/* The shim between Python and liburing: one small function per kind of submission, one that turns the ring and
 * reaps its completions in a batch, and the upkeep of one ring of provided buffers. It decides nothing and knows
 * no HTTP; every limit and retry above "the queue is full" is Python's.
 *
 * Invariants
 *  1. ringserve_turn() gives back each buffer that the previous turn's completions named, once, before it submits.
 *     A buffer is thus Python's from one turn to the next and the kernel's otherwise, whatever the result said.
 *  2. Completions are copied out and the queue advanced in one pass; what is copied fits, since the copy has as
 *     many entries as the queue.
 *  3. Every submission sets its user_data after its prep call: before liburing 2.4 some preps cleared it.
 *
 * Written against liburing 2.3 (Debian 12): it has no io_uring_setup_buf_ring, so the buffer ring is mapped and
 * registered here.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <liburing.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* Linux 6.5; the headers of Debian 12 are older. One number on every architecture but alpha. */
#endif

#define RINGSERVE_PIECES 128 /* of a page each, in one call: 512 KiB, which is a pipe */
#define RINGSERVE_BUFFER_GROUP 0
#define RINGSERVE_OWN (1ULL << 63) /* of user_data: a submission of the ring's own, which nobody above it knows */
#define RINGSERVE_CLOSE (RINGSERVE_OWN | 1) /* a completion tells Python only of an error */
#define RINGSERVE_CANCEL (RINGSERVE_OWN | 2) /* a completion tells Python nothing: the target's does */
#define RINGSERVE_CHANGES (RINGSERVE_OWN | 5) /* no submission: what was read of inotify(7), or -EOVERFLOW */
#define RINGSERVE_CHANGE_BYTES_MAX (sizeof(struct inotify_event) + NAME_MAX + 1)
#define RINGSERVE_ACCEPT_FLAGS (SOCK_NONBLOCK | SOCK_CLOEXEC)

typedef struct {
    uint64_t mode, device, inode;
    int64_t size, modified_ns, changed_ns;
    uint64_t links;
} ringserve_status;

typedef struct {
    ringserve_status status;
    int file, read;
} ringserve_loaded;

/* A completion for Python, which decodes an array of them with struct "=Qih?x": 16 bytes, as the kernel's own. */
typedef struct {
    uint64_t user_data;
    int32_t res;
    int16_t buffer; /* the provided buffer that it names; -1 for none */
    uint8_t more;
    uint8_t unused;
} ringserve_completion;

typedef struct {
    unsigned setup_flags, features, submission_entries, completion_entries;
    unsigned lent;
    uint64_t enters, early_submits, overflows, interrupted, refused;
} ringserve_figures;

typedef struct ringserve_ring {
    struct io_uring ring;
    ringserve_figures figures;
    ringserve_completion *completions; /* those for the ring's owner from the front, its own from the back */
    unsigned in_flight;
    struct io_uring_buf_ring *buffer_ring;
    unsigned char *buffers;
    unsigned buffer_count, buffer_bytes;
    int notifier;
    unsigned char *changes;
    unsigned changes_bytes;
    unsigned short *named; /* buffers that the last turn's completions named, as many as are lent */
} ringserve_ring;

static void *map_pages(size_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

static void ringserve_ring_destroy(ringserve_ring *ring)
{
    if (!ring)
        return;
    io_uring_queue_exit(&ring->ring);
    if (ring->buffer_ring)
        munmap(ring->buffer_ring, ring->buffer_count * sizeof(struct io_uring_buf));
    if (ring->buffers)
        munmap(ring->buffers, (size_t)ring->buffer_count * ring->buffer_bytes);
    free(ring->completions);
    free(ring->named);
    free(ring);
}

static int ringserve_ring_create(ringserve_ring **out, unsigned submission_entries, unsigned completion_entries,
                                 unsigned setup_flags, unsigned kernel_thread_idle_ms)
{
    struct io_uring_params parameters;
    ringserve_ring *ring = calloc(1, sizeof *ring);
    int result;

    if (!ring)
        return -ENOMEM;
    memset(&parameters, 0, sizeof parameters);
    parameters.flags = setup_flags;
    parameters.cq_entries = completion_entries;
    parameters.sq_thread_idle = kernel_thread_idle_ms;
    result = io_uring_queue_init_params(submission_entries, &ring->ring, &parameters);
    if (result < 0) {
        free(ring);
        return result;
    }
    ring->notifier = -1;
    ring->completions = calloc(parameters.cq_entries + 1, sizeof *ring->completions); /* 1: the changes */
    ring->named = calloc(parameters.cq_entries, sizeof *ring->named);
    if (!ring->completions || !ring->named) {
        ringserve_ring_destroy(ring);
        return -ENOMEM;
    }
    ring->figures.setup_flags = setup_flags;
    ring->figures.features = parameters.features;
    ring->figures.submission_entries = parameters.sq_entries;
    ring->figures.completion_entries = parameters.cq_entries;
    *out = ring;
    return 0;
}

static unsigned ringserve_ring_in_flight(const ringserve_ring *ring) { return ring->in_flight; }
static const ringserve_figures *ringserve_ring_figures(const ringserve_ring *ring) { return &ring->figures; }

static int ringserve_ring_limit_workers(ringserve_ring *ring, unsigned bounded, unsigned unbounded)
{
    unsigned limits[2] = {bounded, unbounded};
    return io_uring_register_iowq_max_workers(&ring->ring, limits);
}

static int ringserve_ring_register_descriptor(ringserve_ring *ring) { return io_uring_register_ring_fd(&ring->ring); }

/* -- data plane: provided buffers -- */

static int ringserve_buffers_create(ringserve_ring *ring, unsigned count, unsigned buffer_bytes)
{
    struct io_uring_buf_reg registration;
    unsigned index;
    int result;

    ring->buffer_count = count;
    ring->buffer_bytes = buffer_bytes;
    ring->buffer_ring = map_pages(count * sizeof(struct io_uring_buf));
    ring->buffers = map_pages((size_t)count * buffer_bytes);
    if (!ring->buffer_ring || !ring->buffers)
        return -ENOMEM;
    memset(&registration, 0, sizeof registration);
    registration.ring_addr = (uint64_t)(uintptr_t)ring->buffer_ring;
    registration.ring_entries = count;
    registration.bgid = RINGSERVE_BUFFER_GROUP;
    result = io_uring_register_buf_ring(&ring->ring, &registration, 0);
    if (result < 0)
        return result;
    io_uring_buf_ring_init(ring->buffer_ring);
    for (index = 0; index < count; index++)
        io_uring_buf_ring_add(ring->buffer_ring, ring->buffers + (size_t)index * buffer_bytes, buffer_bytes,
                              (unsigned short)index, io_uring_buf_ring_mask(count), (int)index);
    io_uring_buf_ring_advance(ring->buffer_ring, (int)count);
    return 0;
}

static void *ringserve_buffers_memory(ringserve_ring *ring) { return ring->buffers; }
static void *ringserve_completions_memory(ringserve_ring *ring) { return ring->completions; }

static void give_back_named_buffers(ringserve_ring *ring)
{
    const int mask = io_uring_buf_ring_mask(ring->buffer_count);
    unsigned index;

    for (index = 0; index < ring->figures.lent; index++) {
        unsigned short bid = ring->named[index];
        io_uring_buf_ring_add(ring->buffer_ring, ring->buffers + (size_t)bid * ring->buffer_bytes,
                              ring->buffer_bytes, bid, mask, (int)index);
    }
    io_uring_buf_ring_advance(ring->buffer_ring, (int)ring->figures.lent);
    ring->figures.lent = 0;
}

/* -- control plane and interrupt: the turn -- */

/* Reads inotify(7) until there is nothing more. */
static int read_changes(ringserve_ring *ring)
{
    unsigned filled = 0;
    int lost = 0;
    ssize_t count;

    while ((count = read(ring->notifier, ring->changes + filled, ring->changes_bytes - filled)) > 0) {
        filled += (unsigned)count;
        if (ring->changes_bytes - filled < RINGSERVE_CHANGE_BYTES_MAX) {
            lost = 1;
            filled = 0;
        }
    }
    return lost ? -EOVERFLOW : (int)filled;
}

static int64_t reap(ringserve_ring *ring)
{
    struct io_uring_cqe *cqe;
    unsigned head, count = 0, own = 0, told_nobody = 0;
    int changes;

    io_uring_for_each_cqe(&ring->ring, head, cqe) {
        if (cqe->user_data == RINGSERVE_CANCEL || (cqe->user_data == RINGSERVE_CLOSE && cqe->res >= 0)) {
            told_nobody++;
            continue;
        }
        ringserve_completion *completion = &ring->completions[
            cqe->user_data & RINGSERVE_OWN ? ring->figures.completion_entries - own++ : count++];
        completion->user_data = cqe->user_data;
        completion->res = cqe->res;
        completion->more = !!(cqe->flags & IORING_CQE_F_MORE);
        ring->in_flight -= !completion->more;
        completion->buffer = -1;
        if (cqe->flags & IORING_CQE_F_BUFFER) {
            ring->named[ring->figures.lent] = (unsigned short)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
            completion->buffer = (int16_t)ring->named[ring->figures.lent++];
        }
    }
    io_uring_cq_advance(&ring->ring, count + own + told_nobody);
    ring->in_flight -= told_nobody;
    /* Now, so that a change that was complete before a request was sent is told before the request is answered. */
    if (ring->notifier >= 0 && count + own > 0 && (changes = read_changes(ring)) != 0)
        ring->completions[ring->figures.completion_entries - own++] =
            (ringserve_completion){.user_data = RINGSERVE_CHANGES, .res = changes, .buffer = -1};
    return (int64_t)own << 32 | count;
}

/* Hands the queued batch to the kernel, waits for `wait_for` completions (0: does not sleep, but lets the kernel
 * post what is due) for at most `timeout_ns`, and copies out what finished. Returns how many, and in the upper 32 bits
 * how many of the ring's own, or -EBADR when the kernel lost a completion. EINTR, ETIME, EAGAIN and EBUSY end the wait; what finished is returned all the same,
 * and what was not submitted stays queued. */
static int64_t ringserve_turn(ringserve_ring *ring, unsigned wait_for, int64_t timeout_ns)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec timeout;
    int result;

    if (ring->figures.lent)
        give_back_named_buffers(ring);
    ring->figures.enters++;
    if (IO_URING_READ_ONCE(*ring->ring.sq.kflags) & IORING_SQ_CQ_OVERFLOW) {
        ring->figures.overflows++;
        wait_for = 0; /* The overflown ones are there already; only a crossing with GETEVENTS flushes them. */
    }
    if (wait_for) {
        timeout.tv_sec = timeout_ns / 1000000000;
        timeout.tv_nsec = timeout_ns % 1000000000;
        result = io_uring_submit_and_wait_timeout(&ring->ring, &cqe, wait_for, &timeout, NULL);
    } else {
        result = io_uring_submit_and_get_events(&ring->ring);
    }
    if (result == -EINTR)
        ring->figures.interrupted++;
    else if (result == -EAGAIN || result == -EBUSY)
        ring->figures.refused++;
    else if (result < 0 && result != -ETIME)
        return result;
    return reap(ring);
}

/* -- control plane: submissions -- */

static struct io_uring_sqe *next_submission(ringserve_ring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);

    if (sqe)
        return sqe;
    ring->figures.early_submits++;
    io_uring_submit(&ring->ring);
    io_uring_sqring_wait(&ring->ring); /* With a kernel thread: until it took some. Without one: nothing. */
    return io_uring_get_sqe(&ring->ring);
}

#define QUEUE(prepare)                                      \
    do {                                                    \
        struct io_uring_sqe *sqe = next_submission(ring);   \
        if (!sqe)                                           \
            return -EAGAIN;                                 \
        prepare;                                            \
        io_uring_sqe_set_data64(sqe, user_data);            \
        ring->in_flight++;                                  \
        return 0;                                           \
    } while (0)

static int ringserve_accept(ringserve_ring *ring, uint64_t user_data, int fd)
{
    QUEUE(io_uring_prep_accept(sqe, fd, NULL, NULL, RINGSERVE_ACCEPT_FLAGS));
}

static int ringserve_accept_multishot(ringserve_ring *ring, uint64_t user_data, int fd)
{
    QUEUE(io_uring_prep_multishot_accept(sqe, fd, NULL, NULL, RINGSERVE_ACCEPT_FLAGS));
}

static int ringserve_receive(ringserve_ring *ring, uint64_t user_data, int fd)
{
    /* A length of 0 means that of the buffer which the kernel picks. */
    QUEUE(io_uring_prep_recv(sqe, fd, NULL, 0, 0); sqe->flags |= IOSQE_BUFFER_SELECT;
          sqe->buf_group = RINGSERVE_BUFFER_GROUP);
}

static int ringserve_receive_multishot(ringserve_ring *ring, uint64_t user_data, int fd)
{
    QUEUE(io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0); sqe->flags |= IOSQE_BUFFER_SELECT;
          sqe->buf_group = RINGSERVE_BUFFER_GROUP);
}

static int ringserve_send(ringserve_ring *ring, uint64_t user_data, int fd, uint64_t address, unsigned length)
{
    QUEUE(io_uring_prep_send(sqe, fd, (const void *)(uintptr_t)address, length, MSG_NOSIGNAL));
}

static int ringserve_splice(ringserve_ring *ring, uint64_t user_data, int fd_in, int64_t offset_in, int fd_out,
                            unsigned length)
{
    QUEUE(io_uring_prep_splice(sqe, fd_in, offset_in, fd_out, -1, length, SPLICE_F_MOVE));
}

static int ringserve_poll(ringserve_ring *ring, uint64_t user_data, int fd, unsigned events)
{
    QUEUE(io_uring_prep_poll_add(sqe, fd, events));
}

static int ringserve_open_beneath(ringserve_ring *ring, uint64_t user_data, int directory_fd, uint64_t path,
                                  uint64_t how)
{
    /* By a worker: what the kernel can do at once has been tried, and a file system may hang whatever is cached. */
    QUEUE(io_uring_prep_openat2(sqe, directory_fd, (const char *)(uintptr_t)path,
                                (struct open_how *)(uintptr_t)how); sqe->flags |= IOSQE_ASYNC);
}

static int ringserve_statx(ringserve_ring *ring, uint64_t user_data, int fd, uint64_t statx_address)
{
    QUEUE(io_uring_prep_statx(sqe, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS,
                              (struct statx *)(uintptr_t)statx_address));
}

static int ringserve_read(ringserve_ring *ring, uint64_t user_data, int fd, uint64_t address, unsigned length,
                          int64_t offset, unsigned flags)
{
    QUEUE(io_uring_prep_read(sqe, fd, (void *)(uintptr_t)address, length, (uint64_t)offset);
          sqe->flags |= (unsigned char)flags);
}

static int ringserve_write(ringserve_ring *ring, uint64_t user_data, int fd, uint64_t address, unsigned length)
{
    QUEUE(io_uring_prep_write(sqe, fd, (const void *)(uintptr_t)address, length, (uint64_t)-1));
}

static int ringserve_close(ringserve_ring *ring, uint64_t user_data, int fd)
{
    QUEUE(io_uring_prep_close(sqe, fd));
}

static int ringserve_cancel(ringserve_ring *ring, uint64_t user_data, uint64_t target_user_data)
{
    QUEUE(io_uring_prep_cancel64(sqe, target_user_data, 0));
}

/* -- calls that are answered at once, where Python's standard library has none -- */

static int ringserve_openat2(int directory_fd, const char *path, uint64_t flags, uint64_t resolve)
{
    struct open_how how = {.flags = flags, .mode = 0, .resolve = resolve};
    long result = syscall(SYS_openat2, directory_fd, path, &how, sizeof how);
    return result < 0 ? -errno : (int)result;
}

/* statx(2) of an open file. A local file system answers at once. */
static int ringserve_status_of(int fd, ringserve_status *out)
{
    struct statx found;

    /* By its number: fstat() is a symbol of glibc 2.33, and the wheel would need that. */
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &found) < 0)
        return -errno;
    out->links = found.stx_nlink;
    out->mode = found.stx_mode;
    out->device = makedev(found.stx_dev_major, found.stx_dev_minor);
    out->inode = found.stx_ino;
    out->size = (int64_t)found.stx_size;
    out->modified_ns = found.stx_mtime.tv_sec * 1000000000LL + found.stx_mtime.tv_nsec;
    out->changed_ns = found.stx_ctime.tv_sec * 1000000000LL + found.stx_ctime.tv_nsec;
    return 0;
}

/* openat2(2), statx(2), preadv2(2) and close(2) in one call. A regular file of at most `body_bytes_max` is read, and one
 * byte more is asked for, so that one that has grown shows; `read` is what came of it, or -EFBIG. `body` has room for that.
 * `file` is open unless it is no regular file, or has at most `closed_bytes_max` and was read whole: then it is -1. */
static int ringserve_load(int directory_fd, const char *path, uint64_t flags, uint64_t resolve, int read_flags,
                          int64_t body_bytes_max, int64_t closed_bytes_max, void *body, ringserve_loaded *out)
{
    int fd = ringserve_openat2(directory_fd, path, flags, resolve);
    int result;

    if (fd < 0)
        return fd;
    out->file = -1;
    out->read = -EFBIG;
    result = ringserve_status_of(fd, &out->status);
    if (result == 0 && S_ISREG(out->status.mode)) {
        if (out->status.size <= body_bytes_max) {
            struct iovec whole = {.iov_base = body, .iov_len = (size_t)out->status.size + 1};
            out->read = (int)preadv2(fd, &whole, 1, 0, read_flags);
            if (out->read < 0)
                out->read = -errno;
        }
        if (out->read != out->status.size || out->status.size > closed_bytes_max)
            out->file = fd;
    }
    if (out->file < 0)
        close(fd);
    return result;
}

static int ringserve_look(int directory_fd, const char *path, uint64_t flags, uint64_t resolve, ringserve_status *out)
{
    int fd = ringserve_openat2(directory_fd, path, flags, resolve);
    int result;

    if (fd < 0)
        return fd;
    result = ringserve_status_of(fd, out);
    close(fd);
    return result;
}

/* Whether a byte can be had without waiting: its page is in memory, and what is in it has been read. */
static int is_there(int fd, int64_t offset)
{
    char byte;
    struct iovec one = {.iov_base = &byte, .iov_len = 1};
    return preadv2(fd, &one, 1, offset, RWF_NOWAIT) == 1;
}

/* The same of every byte of a range: they are read, over and over into one page that stays in the cache. The last is
 * asked for first, since a read-ahead fills from front to back. */
static int are_all_there(int fd, int64_t offset, unsigned length)
{
    static char bin[4096];
    struct iovec pieces[RINGSERVE_PIECES];
    unsigned asked, count;

    if (!is_there(fd, offset + length - 1))
        return 0;
    while (length > 0) {
        for (count = 0, asked = 0; count < RINGSERVE_PIECES && asked < length; count++) {
            pieces[count].iov_base = bin;
            pieces[count].iov_len = length - asked < sizeof bin ? length - asked : sizeof bin;
            asked += pieces[count].iov_len;
        }
        if (preadv2(fd, pieces, (int)count, offset, RWF_NOWAIT) != (ssize_t)asked)
            return 0;
        offset += asked;
        length -= asked;
    }
    return 1;
}

static int ringserve_splice_resident(int fd, int64_t offset, int pipe_fd, unsigned length)
{
    struct { uint64_t offset, length; } range = {(uint64_t)offset, length};
    struct { uint64_t cached, dirty, writeback, evicted, recently_evicted; } found;
    int64_t page = getpagesize();
    uint64_t pages = (uint64_t)((offset + length + page - 1) / page - offset / page);

    if (length == 0)
        return -EAGAIN;
    if (syscall(SYS_cachestat, fd, &range, &found, 0) == 0) {
        /* A page that a read-ahead has only begun to fill counts as cached. */
        if (found.cached < pages || !is_there(fd, offset + length - 1) || !is_there(fd, offset))
            return -EAGAIN;
    } else if ((errno != EPERM && errno != ENOSYS) || !are_all_there(fd, offset, length)) {
        /* EPERM: newer kernels tell only who owns the file or may write to it. ENOSYS: older than 6.5. A read that waits
         * for nothing says the same, and costs less than a kernel thread for the splice (docs/decisions.md). */
        return -EAGAIN;
    }
    ssize_t result = splice(fd, &offset, pipe_fd, NULL, length, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    return result < 0 ? -errno : (int)result;
}

/* From now on each turn reads the changes that `fd` tells of (-1: none) into `memory`. */
static void ringserve_ring_read_changes(ringserve_ring *ring, int fd, uint64_t memory, unsigned bytes)
{
    ring->notifier = fd;
    ring->changes = (unsigned char *)(uintptr_t)memory;
    ring->changes_bytes = bytes;
}

static int ringserve_inotify_open(void)
{
    int result = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    return result < 0 ? -errno : result;
}

static int ringserve_inotify_add(int fd, const char *path, unsigned mask)
{
    int result = inotify_add_watch(fd, path, mask);
    return result < 0 ? -errno : result;
}

static int ringserve_inotify_remove(int fd, int watch)
{
    return inotify_rm_watch(fd, watch) < 0 ? -errno : 0;
}
