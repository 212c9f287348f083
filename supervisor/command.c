/* See command.h. */
#include "supervisor/command.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/error.h"
#include "common/loop.h"

struct command_queue {
    struct loop *loop;
    int fd; /* eventfd: readable while commands wait */
    pthread_mutex_t lock;
    struct command *first; /* Requires: lock */
    struct command **tail; /* Requires: lock */
};

void command_run_all(struct command_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    struct command *command = queue->first;
    queue->first = NULL;
    queue->tail = &queue->first;
    pthread_mutex_unlock(&queue->lock);

    while (command) {
        struct command *next = command->next;
        command->run(command);
        command = next;
    }
}

static void on_readable(void *data, uint32_t events)
{
    struct command_queue *queue = data;
    (void)events;
    uint64_t count;
    if (read(queue->fd, &count, sizeof count) < 0 && errno != EAGAIN && errno != EINTR)
        return;
    command_run_all(queue);
}

int command_queue_new(struct loop *loop, struct command_queue **ret_queue, struct error *err)
{
    struct command_queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        return error_set(err, ERROR_MEMORY, "command queue: out of memory");
    queue->loop = loop;
    queue->tail = &queue->first;
    pthread_mutex_init(&queue->lock, NULL);
    queue->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (queue->fd < 0) {
        error_set_errno(err, errno, "eventfd");
        goto fail;
    }
    if (loop_add(loop, queue->fd, EPOLLIN, on_readable, queue, err) < 0) {
        close(queue->fd);
        queue->fd = -1;
        goto fail;
    }
    *ret_queue = queue;
    return 0;
fail:
    command_queue_free(queue);
    return -1;
}

void command_queue_free(struct command_queue *queue)
{
    if (!queue)
        return;
    if (queue->fd >= 0) {
        loop_remove(queue->loop, queue->fd);
        close(queue->fd);
    }
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

void command_post(struct command_queue *queue, struct command *command)
{
    command->next = NULL;
    pthread_mutex_lock(&queue->lock);
    *queue->tail = command;
    queue->tail = &command->next;
    pthread_mutex_unlock(&queue->lock);
    uint64_t one = 1;
    /* A full eventfd counter is readable all the same. */
    while (write(queue->fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}
