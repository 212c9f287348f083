/* Which connections there are, and which go when there are too many or when they are overdue.
 *
 * A connection is in a list while its client is to do something: `fresh` until its first request is complete,
 * `known` later. A request under way at ours takes it out. Closing is a shutdown(2) of the socket: the thread
 * that serves it then sees its end. */
#include "supervisor/http_internal.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "common/clock.h"

void http_connections_init(struct http_connection_table *table, unsigned max)
{
    pthread_mutex_init(&table->lock, NULL);
    table->max = max;
    TAILQ_INIT(&table->fresh);
    TAILQ_INIT(&table->known);
}

void http_connections_done(struct http_connection_table *table)
{
    pthread_mutex_destroy(&table->lock);
}

static struct http_connection_list *list_of(struct http_connection_table *table,
                                            const struct http_connection *connection)
{
    return connection->known ? &table->known : &table->fresh;
}

/* Requires: table lock, as all down to the next blank comment. */
static void unlist(struct http_connection_table *table, struct http_connection *connection)
{
    if (connection->listed)
        TAILQ_REMOVE(list_of(table, connection), connection, link);
    connection->listed = false;
}

static void list(struct http_connection_table *table, struct http_connection *connection)
{
    unlist(table, connection);
    connection->since_ns = clock_coarse_ns();
    connection->listed = !connection->dropped;
    if (connection->listed)
        TAILQ_INSERT_TAIL(list_of(table, connection), connection, link);
}

static void drop(struct http_connection_table *table, struct http_connection *connection)
{
    unlist(table, connection);
    connection->dropped = true;
    shutdown(connection->fd, SHUT_RDWR);
}

struct http_connection *http_connection_new(struct http_server *server, int fd)
{
    struct http_connection_table *table = &server->connections;
    struct http_connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        return NULL;
    connection->server = server;
    connection->fd = fd;
    pthread_mutex_lock(&table->lock);
    table->n++;
    list(table, connection);
    if (table->n > table->max) {
        /* At least the new one itself is there. */
        struct http_connection *oldest = TAILQ_FIRST(&table->fresh);
        const struct http_connection *other = TAILQ_FIRST(&table->known);
        if (oldest == connection && other)
            oldest = TAILQ_FIRST(&table->known);
        drop(table, oldest);
    }
    pthread_mutex_unlock(&table->lock);
    return connection;
}

void http_connection_free(struct http_connection *connection)
{
    struct http_connection_table *table = &connection->server->connections;
    pthread_mutex_lock(&table->lock);
    unlist(table, connection);
    table->n--;
    pthread_mutex_unlock(&table->lock);
    buffer_done(&connection->request.body);
    buffer_done(&connection->request.query);
    buffer_done(&connection->request.answer);
    free(connection);
}

void http_connection_begin(struct http_connection *connection)
{
    struct http_connection_table *table = &connection->server->connections;
    pthread_mutex_lock(&table->lock);
    list(table, connection);
    pthread_mutex_unlock(&table->lock);
}

void http_connection_busy(struct http_connection *connection)
{
    struct http_connection_table *table = &connection->server->connections;
    pthread_mutex_lock(&table->lock);
    unlist(table, connection);
    connection->known = true;
    pthread_mutex_unlock(&table->lock);
}

void http_connection_idle(struct http_connection *connection)
{
    http_connection_begin(connection);
}

void http_connections_expire(struct http_connection_table *table, uint64_t before_ns)
{
    struct http_connection *connection;
    pthread_mutex_lock(&table->lock);
    while ((connection = TAILQ_FIRST(&table->fresh)) != NULL && connection->since_ns < before_ns)
        drop(table, connection);
    while ((connection = TAILQ_FIRST(&table->known)) != NULL && connection->since_ns < before_ns)
        drop(table, connection);
    pthread_mutex_unlock(&table->lock);
}
