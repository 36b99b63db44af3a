/* What Python sees of the shim; build_uring.py gives this text to cffi, so it holds declarations only.
 * A function that queues a submission returns 0, or -EAGAIN when the submission queue is full and the kernel
 * takes nothing at the moment: the submission was not queued, and the caller keeps it for the next turn. */

typedef struct ringserve_ring ringserve_ring;

typedef struct {
    unsigned setup_flags;      /* IORING_SETUP_* that the kernel accepted */
    unsigned features;         /* IORING_FEAT_* that it reports */
    unsigned submission_entries;
    unsigned completion_entries;
    unsigned lent;             /* provided buffers that are Python's until the next turn */
    uint64_t enters;           /* crossings into the kernel by turn() */
    uint64_t early_submits;    /* crossings because the submission queue was full in mid-batch */
    uint64_t overflows;        /* turns that found the completion queue overflown */
    uint64_t interrupted;      /* EINTR from enter */
    uint64_t refused;          /* EAGAIN or EBUSY from enter: the submissions stay queued */
} ringserve_figures;

typedef struct {
    uint64_t mode, device, inode;
    int64_t size, modified_ns, changed_ns;
    uint64_t links;
} ringserve_status;            /* the fields of statx(2) that serving needs, as Python's "QQQqqqQ" */

typedef struct {
    ringserve_status status;
    int file, read;
} ringserve_loaded;

int ringserve_ring_create(ringserve_ring **ring, unsigned submission_entries, unsigned completion_entries,
                          unsigned setup_flags, unsigned kernel_thread_idle_ms);
void ringserve_ring_destroy(ringserve_ring *ring);
const ringserve_figures *ringserve_ring_figures(const ringserve_ring *ring);
unsigned ringserve_ring_in_flight(const ringserve_ring *ring); /* submissions that will complete again */
int ringserve_ring_limit_workers(ringserve_ring *ring, unsigned bounded, unsigned unbounded);
int ringserve_ring_register_descriptor(ringserve_ring *ring);

int ringserve_buffers_create(ringserve_ring *ring, unsigned count, unsigned buffer_bytes);
void *ringserve_buffers_memory(ringserve_ring *ring);
void *ringserve_completions_memory(ringserve_ring *ring);

int64_t ringserve_turn(ringserve_ring *ring, unsigned wait_for, int64_t timeout_ns);

int ringserve_accept(ringserve_ring *ring, uint64_t user_data, int fd);
int ringserve_accept_multishot(ringserve_ring *ring, uint64_t user_data, int fd);
int ringserve_receive(ringserve_ring *ring, uint64_t user_data, int fd);
int ringserve_receive_multishot(ringserve_ring *ring, uint64_t user_data, int fd);
int ringserve_send(ringserve_ring *ring, uint64_t user_data, int fd, uint64_t address, unsigned length);
int ringserve_splice(ringserve_ring *ring, uint64_t user_data, int fd_in, int64_t offset_in, int fd_out,
                     unsigned length);
int ringserve_poll(ringserve_ring *ring, uint64_t user_data, int fd, unsigned events);
int ringserve_open_beneath(ringserve_ring *ring, uint64_t user_data, int directory_fd, uint64_t path,
                           uint64_t how);
int ringserve_read(ringserve_ring *ring, uint64_t user_data, int fd, uint64_t address, unsigned length,
                   int64_t offset, unsigned flags);
int ringserve_statx(ringserve_ring *ring, uint64_t user_data, int fd, uint64_t statx_address);
int ringserve_write(ringserve_ring *ring, uint64_t user_data, int fd, uint64_t address, unsigned length);
int ringserve_close(ringserve_ring *ring, uint64_t user_data, int fd);
int ringserve_cancel(ringserve_ring *ring, uint64_t user_data, uint64_t target_user_data);

int ringserve_openat2(int directory_fd, const char *path, uint64_t flags, uint64_t resolve);
int ringserve_status_of(int fd, ringserve_status *status);
int ringserve_look(int directory_fd, const char *path, uint64_t flags, uint64_t resolve, ringserve_status *status);
int ringserve_load(int directory_fd, const char *path, uint64_t flags, uint64_t resolve, int read_flags,
                   int64_t body_bytes_max, int64_t closed_bytes_max, void *body, ringserve_loaded *loaded);
int ringserve_splice_resident(int fd, int64_t offset, int pipe_fd, unsigned length);
void ringserve_ring_read_changes(ringserve_ring *ring, int fd, uint64_t memory, unsigned bytes);
int ringserve_inotify_open(void);
int ringserve_inotify_add(int fd, const char *path, unsigned mask);
int ringserve_inotify_remove(int fd, int watch);

#define IOSQE_ASYNC ...
#define IORING_SETUP_SQPOLL ...
#define IORING_SETUP_CQSIZE ...
#define IORING_SETUP_CLAMP ...
#define IORING_SETUP_SUBMIT_ALL ...
#define IORING_SETUP_COOP_TASKRUN ...
#define IORING_SETUP_SINGLE_ISSUER ...
#define IORING_SETUP_DEFER_TASKRUN ...
#define IORING_FEAT_NODROP ...
#define IORING_FEAT_EXT_ARG ...
