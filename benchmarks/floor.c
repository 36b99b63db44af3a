/* The floor: what a server on io_uring costs that answers fixed bytes and looks at nothing.
 *
 *     floor PORT FILE
 *
 * Whoever connects gets FILE with a head, once for each blank line that he sends. No parsing, no files, no clock, no
 * limits: whatever a server does beyond this is what it may be asked about. One ring, one thread: multishot accept,
 * multishot receive on provided buffers, one send for all requests of a chunk. Linux 6.1, liburing 2.3.
 *
 * It cannot put together a head that comes in two pieces. wrk's never do, and it ends if one does, rather than give
 * figures that mean nothing.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ENTRIES = 1024,      /* submissions of a turn; 64 connections need one each */
    BUFFERS = 256,       /* provided buffers, a power of two */
    BUFFER_BYTES = 4096, /* 16 heads of wrk fit */
    BUFFER_GROUP = 1,
    ANSWERS_MAX = 32,    /* to one chunk: twice the depth of the pipelining workload */
    BACKLOG = 4096
};

enum kind { ACCEPT, RECEIVE, SEND };

static struct io_uring ring;
static struct io_uring_buf_ring *buffer_ring;
static unsigned char buffers[BUFFERS][BUFFER_BYTES];
static char *answers; /* ANSWERS_MAX times the answer, so that several go out as one */
static size_t answer_bytes;

static void fail(const char *what, int error)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(error));
    exit(1);
}

static struct io_uring_sqe *submission(void)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    if (!sqe) { /* the queue is full: hand it over, then there is room */
        io_uring_submit(&ring);
        sqe = io_uring_get_sqe(&ring);
        if (!sqe)
            fail("no submission after submitting", EBUSY);
    }
    return sqe;
}

static void label(struct io_uring_sqe *sqe, enum kind kind, int descriptor)
{
    /* After prep, which clears it. */
    io_uring_sqe_set_data64(sqe, (uint64_t)kind << 32 | (uint32_t)descriptor);
}

static void accept_clients(int listener)
{
    struct io_uring_sqe *sqe = submission();
    io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, 0);
    label(sqe, ACCEPT, listener);
}

static void receive(int client)
{
    struct io_uring_sqe *sqe = submission();
    io_uring_prep_recv_multishot(sqe, client, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
    label(sqe, RECEIVE, client);
}

static void answer(int client, unsigned count)
{
    struct io_uring_sqe *sqe = submission();
    io_uring_prep_send(sqe, client, answers, count * answer_bytes, MSG_NOSIGNAL | MSG_WAITALL);
    label(sqe, SEND, client);
}

static void give_back(unsigned bid)
{
    io_uring_buf_ring_add(buffer_ring, buffers[bid], BUFFER_BYTES, bid, io_uring_buf_ring_mask(BUFFERS), 0);
    io_uring_buf_ring_advance(buffer_ring, 1);
}

static unsigned heads(const unsigned char *data, size_t length)
{
    const unsigned char *end = data + length;
    unsigned count = 0;
    if (length < 4 || memcmp(end - 4, "\r\n\r\n", 4) != 0) {
        fprintf(stderr, "floor: a head came in two pieces, which this program cannot put together\n");
        exit(1);
    }
    while ((data = memmem(data, end - data, "\r\n\r\n", 4)) != NULL) {
        count++;
        data += 4;
    }
    return count;
}

static void received(int client, const struct io_uring_cqe *cqe)
{
    if (cqe->res > 0) {
        unsigned bid = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
        unsigned count = heads(buffers[bid], cqe->res);
        give_back(bid);
        if (count > ANSWERS_MAX)
            fail("more requests at once than there are answers", E2BIG);
        answer(client, count);
    }
    if (cqe->flags & IORING_CQE_F_MORE)
        return;
    if (cqe->res > 0 || cqe->res == -ENOBUFS)
        receive(client);
    else
        close(client);
}

static void completed(const struct io_uring_cqe *cqe, int listener)
{
    int descriptor = (int)(uint32_t)cqe->user_data;
    switch ((enum kind)(cqe->user_data >> 32)) {
    case ACCEPT:
        if (cqe->res >= 0)
            receive(cqe->res);
        if (!(cqe->flags & IORING_CQE_F_MORE))
            accept_clients(listener);
        break;
    case RECEIVE:
        received(descriptor, cqe);
        break;
    case SEND: /* A client that went away is noticed by its receive. */
        break;
    }
}

static void load(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail(path, errno);
    static char body[1 << 20];
    size_t body_bytes = fread(body, 1, sizeof body, file);
    fclose(file);
    char head[512]; /* The fields that the others send, too, so that the answers are of about the same size. */
    int head_bytes = snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\nServer: floor\r\nDate: Mon, 01 Jan 2024 12:00:00 GMT\r\n"
        "Content-Type: application/octet-stream\r\nContent-Length: %zu\r\n"
        "Last-Modified: Mon, 01 Jan 2024 12:00:00 GMT\r\nETag: \"6592a8c0-400\"\r\nAccept-Ranges: bytes\r\n\r\n",
        body_bytes);
    answer_bytes = head_bytes + body_bytes;
    answers = malloc(ANSWERS_MAX * answer_bytes);
    if (!answers)
        fail("malloc", errno);
    for (unsigned i = 0; i < ANSWERS_MAX; i++) {
        memcpy(answers + i * answer_bytes, head, head_bytes);
        memcpy(answers + i * answer_bytes + head_bytes, body, body_bytes);
    }
}

static int listening(unsigned short port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)},
    };
    int one = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, BACKLOG))
        fail("listening", errno);
    return listener;
}

static void provide_buffers(void)
{
    struct io_uring_buf_reg registration = {.ring_entries = BUFFERS, .bgid = BUFFER_GROUP};
    if (posix_memalign((void **)&buffer_ring, 4096, BUFFERS * sizeof(struct io_uring_buf)))
        fail("posix_memalign", ENOMEM);
    registration.ring_addr = (uintptr_t)buffer_ring;
    int error = io_uring_register_buf_ring(&ring, &registration, 0);
    if (error)
        fail("io_uring_register_buf_ring", -error);
    io_uring_buf_ring_init(buffer_ring);
    for (unsigned bid = 0; bid < BUFFERS; bid++)
        give_back(bid);
}

int main(int count, char **arguments)
{
    if (count != 3) {
        fprintf(stderr, "usage: floor PORT FILE\n");
        return 2;
    }
    load(arguments[2]);
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = 8 * ENTRIES,
    };
    int error = io_uring_queue_init_params(ENTRIES, &ring, &params);
    if (error)
        fail("io_uring_queue_init_params", -error);
    provide_buffers();
    int listener = listening(atoi(arguments[1]));
    accept_clients(listener);
    for (;;) {
        error = io_uring_submit_and_wait(&ring, 1);
        if (error < 0 && error != -EINTR)
            fail("io_uring_submit_and_wait", -error);
        struct io_uring_cqe *cqe;
        unsigned head, seen = 0;
        io_uring_for_each_cqe(&ring, head, cqe) {
            completed(cqe, listener);
            seen++;
        }
        io_uring_cq_advance(&ring, seen);
    }
}
