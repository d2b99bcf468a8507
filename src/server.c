#include "server.h"
#include "multipart.h"
#include "obatch.h"
#include "os.h"
#include "reply.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    IN_MEMORY = 64 * 1024,          /* a larger body goes to the spool folder */
    FIELD_MAX = 1024 * 1024,        /* a form field without a file name stays in memory */
    CONNECTION_MEMORY = 128 * 1024, /* request line and headers must fit, or 414 and 431 */
    SLOWEST = 1000,                 /* bytes that win back a second of the patience */
};

/* A connection. Belongs to libmicrohttpd's. */
struct client {
    struct server *server;
    struct MHD_Connection *connection;
    struct client *next, **link; /* in server->clients */
    struct request *request;     /* the one that is being received or answered */
    double deadline;             /* by server->attended */
    int socket;
};

/* ---- patience ---- */

/* The client has all the time again: a connection, a request or a reply begins. */
static void begin_waiting(struct client *client) {
    struct server *server = client->server;
    client->deadline = server->attended + server->patience;
    if (client->deadline < server->next_cut) server->next_cut = client->deadline;
}

void server_got_on(struct client *client, size_t bytes) {
    double most = client->server->attended + client->server->patience;
    client->deadline += (double)bytes / SLOWEST;
    if (client->deadline > most) client->deadline = most;
}

/* ---- requests ---- */

static void discard_contents(struct request *request) {
    content_discard(&request->body);
    while (request->parts) {
        struct part *part = request->parts;
        request->parts = part->next;
        content_discard(&part->content);
        free(part->name);
        free(part->filename);
        free(part->type);
        free(part);
    }
    request->last_part = NULL;
    multipart_free(request->form);
    request->form = NULL;
}

static void free_pairs(struct pair *pair) {
    while (pair) {
        struct pair *next = pair->next;
        free(pair);
        pair = next;
    }
}

static void request_free(struct request *request) {
    discard_contents(request);
    free_pairs(request->headers);
    free_pairs(request->query);
    free(request->method);
    free(request->path);
    if (request->response) MHD_destroy_response(request->response);
    free(request);
}

/* An MHD_KeyValueIteratorN; context: the end of a list of pairs. */
static enum MHD_Result collect_pair(void *context, enum MHD_ValueKind kind, const char *name,
                                    size_t name_size, const char *value, size_t value_size) {
    struct pair ***end = context;
    struct pair *pair = malloc(sizeof *pair + name_size + value_size);
    if (!pair) return MHD_NO;
    pair->next = NULL;
    pair->name_size = name_size;
    pair->value_size = value_size;
    for (size_t i = 0; i < name_size; i++)
        pair->text[i] = kind == MHD_HEADER_KIND ? (char)tolower((unsigned char)name[i]) : name[i];
    if (value_size > 0) memcpy(pair->text + name_size, value, value_size);
    **end = pair;
    *end = &pair->next;
    return MHD_YES;
}

static struct pair *collect_pairs(struct MHD_Connection *connection, enum MHD_ValueKind kind) {
    struct pair *first = NULL, **end = &first;
    MHD_get_connection_values_n(connection, kind, collect_pair, &end);
    return first;
}

/* The server itself will answer, once the body is over: a client that is still sending would not
 * see the answer, and closing early would reset the connection under it. */
static void refuse(struct request *request, unsigned int status, const char *text,
                   const char *detail) {
    if (request->refusal) return;
    request->refusal = status;
    snprintf(request->refusal_text, sizeof request->refusal_text, "%s%s\n", text, detail);
}

static void refuse_disk(struct request *request, int error) {
    refuse(request, MHD_HTTP_INTERNAL_SERVER_ERROR, "cannot spool the body: ", strerror(error));
}

static void refuse_size(struct request *request) {
    char limit[32];
    snprintf(limit, sizeof limit, "%" PRIu64 " bytes", request->server->max_body);
    refuse(request, MHD_HTTP_CONTENT_TOO_LARGE, "the body is larger than ", limit);
}

static enum MHD_Result send_refusal(struct request *request) {
    struct MHD_Response *response = MHD_create_response_from_buffer(
        strlen(request->refusal_text), request->refusal_text, MHD_RESPMEM_MUST_COPY);
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "Connection", "close");
    MHD_add_response_header(response, "Content-Type", "text/plain");
    request->state = ANSWERED;
    enum MHD_Result queued = MHD_queue_response(request->connection, request->refusal, response);
    MHD_destroy_response(response);
    return queued;
}

/* multipart_sink.part */
static const char *on_part(void *context, const char *name, const char *filename,
                           const char *type) {
    struct request *request = context;
    struct part *part = calloc(1, sizeof *part);
    if (!part) return "out of memory";
    part->content.fd = -1;
    part->name = strdup(name);
    part->filename = filename ? strdup(filename) : NULL;
    part->type = type ? strdup(type) : NULL;
    int error = !part->name || (filename && !part->filename) || (type && !part->type) ? ENOMEM : 0;
    if (request->last_part) {
        if (!error) error = content_end(&request->last_part->content);
        request->last_part->next = part;
    } else {
        request->parts = part;
    }
    request->last_part = part;
    if (error == 0 && part->filename) error = content_spool(&part->content, request->server->spool);
    if (error) {
        refuse_disk(request, error);
        return "cannot spool";
    }
    return NULL;
}

/* multipart_sink.data */
static const char *on_part_data(void *context, const char *data, size_t size) {
    struct request *request = context;
    struct part *part = request->last_part;
    if (!part->filename && part->content.size + size > FIELD_MAX)
        return "a field without a file name is larger than 1 MiB";
    int error = content_add(&part->content, request->server->spool, FIELD_MAX, data, size);
    if (!error) return NULL;
    refuse_disk(request, error);
    return "cannot spool";
}

static void receive(struct request *request, const char *data, size_t size) {
    struct server *server = request->server;
    struct content *body = &request->body;
    if (request->refusal) return; /* what is thrown away buys no time */
    server_got_on(request->client, size);
    if (size > server->max_body - body->size) {
        refuse_size(request);
    } else if (request->form) {
        request->form_error = multipart_feed(request->form, data, size);
        body->size += size;
    } else {
        int error = content_add(body, server->spool, IN_MEMORY, data, size);
        if (error) refuse_disk(request, error);
    }
    if (request->refusal) discard_contents(request);
}

/* ---- the life of a request, on libmicrohttpd's side ---- */

/* Asks to be told once when the client closes its side. */
static void watch(struct client *client, int operation) {
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.ptr = client};
    epoll_ctl(client->server->watch, operation, client->socket, &event);
}

/* An MHD_NotifyConnectionCallback: a connection begins or ends. */
static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code) {
    struct client *client = *socket_context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        client = calloc(1, sizeof *client);
        if (!client) return; /* begin() then refuses it */
        client->server = context;
        client->connection = connection;
        client->socket =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        *socket_context = client;
        client->next = client->server->clients;
        client->link = &client->server->clients;
        if (client->next) client->next->link = &client->next;
        client->server->clients = client;
        begin_waiting(client);
        watch(client, EPOLL_CTL_ADD);
    } else if (client) {
        *client->link = client->next;
        if (client->next) client->next->link = client->link;
        watch(client, EPOLL_CTL_DEL);
        free(client);
    }
}

static void unlink_request(struct request *request) {
    *request->link = request->next;
    if (request->next) request->next->link = request->link;
}

/* The first call for a request: its headers are there. */
static enum MHD_Result begin(struct server *server, struct MHD_Connection *connection,
                             const char *method, const char *path, void **context) {
    struct client *client =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    struct request *request = client ? calloc(1, sizeof *request) : NULL;
    if (!request) return MHD_NO;
    request->client = client;
    client->request = request;
    begin_waiting(client);
    request->body.fd = -1;
    request->wake = INFINITY;
    request->server = server;
    request->connection = connection;
    request->next = server->all;
    request->link = &server->all;
    if (request->next) request->next->link = &request->next;
    server->all = request;
    *context = request; /* from here on on_completed() takes care of it */

    request->method = strdup(method);
    request->path = strdup(path);
    request->headers = collect_pairs(connection, MHD_HEADER_KIND);
    request->query = collect_pairs(connection, MHD_GET_ARGUMENT_KIND);
    if (!request->method || !request->path) return MHD_NO;

    const char *type = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Type");
    if (type && multipart_is(type)) {
        struct multipart_sink sink = {on_part, on_part_data, request};
        request->form = multipart_new(type, sink);
        if (!request->form) return MHD_NO;
    }
    const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Length");
    if (length && strtoull(length, NULL, 10) > server->max_body) {
        refuse_size(request);
        /* This client waits for permission, so it listens now and sends nothing. */
        if (MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Expect"))
            return send_refusal(request);
    }
    return MHD_YES;
}

/* The last call for a request: its body is there. */
static enum MHD_Result complete(struct request *request) {
    int error = content_end(&request->body);
    for (struct part *part = request->parts; part && !error; part = part->next)
        error = content_end(&part->content);
    if (error) refuse_disk(request, error);
    if (request->refusal) return send_refusal(request);
    if (request->form) request->form_error = multipart_end(request->form);

    request->state = WAITING;
    *request->server->ready_end = request;
    request->server->ready_end = &request->next_ready;
    request->asleep = true;
    MHD_suspend_connection(request->connection);
    return MHD_YES;
}

/* An MHD_AccessHandlerCallback. */
static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **request_context) {
    (void)version;
    struct request *request = *request_context;
    if (!request) return begin(context, connection, method, url, request_context);
    if (request->doomed) return MHD_NO;
    if (*size > 0) {
        receive(request, data, *size);
        *size = 0;
        return MHD_YES;
    }
    return request->state == RECEIVING ? complete(request) : MHD_YES;
}

/* An MHD_RequestCompletedCallback: the reply is out, the client is gone, or the server closes. */
static void on_completed(void *context, struct MHD_Connection *connection, void **request_context,
                         enum MHD_RequestTerminationCode why) {
    (void)context, (void)connection, (void)why;
    struct request *request = *request_context;
    if (!request) return;
    *request_context = NULL;
    unlink_request(request);
    request->client->request = NULL;
    begin_waiting(request->client);
    watch(request->client, EPOLL_CTL_MOD); /* another request may follow */
    request->server = NULL;
    request->connection = NULL;
    request->client = NULL;
    if (!request->taken) {
        request_free(request);
    } else if (request->state != WAITING) {
        discard_contents(request);
    }
}

/* Goes on with a request: sends its reply, or the next bytes of it, or ends it. */
static void wake(struct request *request) {
    request->wake = INFINITY;
    begin_waiting(request->client);
    if (request->response && !request->doomed) {
        request->doomed =
            MHD_queue_response(request->connection, request->status, request->response) != MHD_YES;
        MHD_destroy_response(request->response);
        request->response = NULL;
    }
    if (request->doomed) {
        /* Dissolving the association sends RST at once; closing would first send FIN, which looks
         * like an empty answer. */
        const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
        if (connect(request->client->socket, &nowhere, sizeof nowhere) != 0)
            shutdown(request->client->socket, SHUT_RDWR);
    }
    if (!request->asleep) return;
    request->asleep = false;
    MHD_resume_connection(request->connection);
}

static void drop(struct request *request) {
    request->state = ANSWERED;
    request->doomed = true;
    wake(request);
}

/* The client has closed its side. libmicrohttpd's epoll is edge-triggered, and when the end came
 * together with the last data it never reads the end: half a request would stay for ever. Resuming
 * makes it read again. */
static void hung_up(struct client *client) {
    struct request *request = client->request;
    if (!request || request->state == RECEIVING) {
        MHD_suspend_connection(client->connection);
        MHD_resume_connection(client->connection);
        watch(client, EPOLL_CTL_MOD);
    } else if (request->state == ANSWERED && request->asleep) {
        drop(request);
    }
}

/* ---- replies ---- */

int request_answer(struct request *request, const struct answer *answer) {
    if (!answer->drop && !answer->stall) {
        request->response = reply_make(request, answer);
        if (!request->response) return errno;
        request->status = answer->status;
    }
    watch(request->client, EPOLL_CTL_MOD); /* it may have left before, when that did not matter */
    request->state = ANSWERED;
    request->doomed = answer->drop;
    request->wake = answer->stall ? INFINITY : os_clock() + answer->delay;
    if (request->wake <= os_clock()) wake(request);
    return 0;
}

int request_keep(struct request *request, const char *path) {
    struct content *content = &request->body;
    if (request->form) {
        struct part *part = request->parts;
        while (part && !part->filename) part = part->next;
        if (!part) return ENODATA;
        content = &part->content;
    } else if (!content->path && request->server && (content->text || content->size == 0)) {
        int error = content_to_file(content, request->server->spool);
        if (!error) error = content_end(content);
        if (error) return error;
    }
    if (!content->path) return ENODATA;
    if (rename(content->path, path) != 0) return errno;
    free(content->path);
    content->path = NULL;
    return 0;
}

void request_release(struct request *request) {
    request->taken = false;
    if (!request->connection) {
        request_free(request);
    } else if (request->state == WAITING) {
        drop(request);
    }
}

/* ---- the loop ---- */

/* Wakes the requests whose time has come; returns when the next one's comes. */
static double wake_due(struct server *server) {
    double now = os_clock(), next = INFINITY;
    for (struct request *request = server->all; request; request = request->next) {
        if (request->wake <= now) wake(request);
        if (request->wake < next) next = request->wake;
    }
    return next;
}

/* Cuts off the clients whose time is over: those that are to send, and those that are to fetch. One
 * whose request waits for its answer, or whose reply sleeps, waits for us. */
static void cut_off(struct server *server) {
    if (server->attended < server->next_cut) return;
    server->next_cut = INFINITY;
    for (struct client *client = server->clients; client; client = client->next) {
        const struct request *request = client->request;
        if (request && request->asleep) continue; /* wake() gives it time */
        if (client->deadline > server->attended) {
            if (client->deadline < server->next_cut) server->next_cut = client->deadline;
            continue;
        }
        client->deadline = INFINITY;
        shutdown(client->socket, SHUT_RDWR);
        MHD_suspend_connection(client->connection); /* or the end may not be seen: see hung_up() */
        MHD_resume_connection(client->connection);
    }
}

/* Waits until there is something to do, `until` at most. */
static void wait_for_events(struct server *server, double until) {
    MHD_UNSIGNED_LONG_LONG pending;
    double seconds = until - os_clock();
    int timeout = seconds <= 0 ? 0 : seconds > 3600 ? 3600 * 1000 : (int)ceil(seconds * 1000);
    if (MHD_get_timeout(server->daemon, &pending) == MHD_YES && pending < (unsigned)timeout)
        timeout = (int)pending;

    sigset_t before;
    os_block_stops(&before);
    struct epoll_event events[64];
    int count = 0;
    if (!obatch_interrupted) count = epoll_pwait(server->watch, events, 64, timeout, &before);
    pthread_sigmask(SIG_SETMASK, &before, NULL);

    for (int i = 0; i < count; i++)
        if (events[i].data.ptr) hung_up(events[i].data.ptr); /* NULL: libmicrohttpd's own */
}

struct request *server_take(struct server *server, double deadline) {
    double before = os_clock();
    for (;;) {
        wake_due(server);
        MHD_run(server->daemon);
        if (obatch_interrupted) return NULL;
        if (server->ready) break;
        cut_off(server);
        double now = os_clock();
        if (now >= deadline) return NULL;
        double due = wake_due(server); /* again: MHD_run() has put replies with a rate to sleep */
        double cut = now + server->next_cut - server->attended;
        if (cut < due) due = cut;
        wait_for_events(server, due < deadline ? due : deadline);
        now = os_clock();
        server->attended += now - before;
        before = now;
    }
    struct request *request = server->ready;
    server->ready = request->next_ready;
    if (!server->ready) server->ready_end = &server->ready;
    request->taken = true;
    return request;
}

/* ---- opening and closing ---- */

/* A listening socket, the address it got in *address; -1 and errno. */
static int open_listener(struct sockaddr *address, socklen_t size) {
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    /* So that a restart on the same port need not wait for the connections of the last run. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, address, size) == 0 && listen(fd, SOMAXCONN) == 0 &&
        getsockname(fd, address, &size) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* A connection may need a second descriptor, for a body being spooled or a file being sent. What is
 * beyond the limit waits in the queue of the listening socket. */
static unsigned int connection_limit(void) {
    struct rlimit files = {.rlim_cur = 1024};
    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur >= 16384) return 8192;
    return files.rlim_cur >= 128 ? (unsigned int)(files.rlim_cur - 64) / 2 : 32;
}

int server_open(struct server *server, struct sockaddr *address, socklen_t size, const char *spool,
                uint64_t max_body, double patience) {
    *server = (struct server){
        .max_body = max_body, .patience = patience, .next_cut = INFINITY, .watch = -1};
    server->ready_end = &server->ready;
    server->spool = strdup(spool);
    if (!server->spool) return ENOMEM;
    server->watch = epoll_create1(EPOLL_CLOEXEC);
    if (server->watch < 0) return errno;
    int fd = open_listener(address, size);
    if (fd < 0) return errno;
    server->port =
        ntohs(address->sa_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)address)->sin6_port
                                             : ((struct sockaddr_in *)(void *)address)->sin_port);
    /* Takes fd over. No MHD_OPTION_CONNECTION_TIMEOUT: a byte now and then satisfies it, and it
     * cuts clients because the caller took long between two calls of server_take(). See cut_off().
     */
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, server,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_CONNECTION, on_connection, server,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, server, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_LIMIT, connection_limit(), MHD_OPTION_END);
    if (!server->daemon) return ENOMEM;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    int theirs = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    return epoll_ctl(server->watch, EPOLL_CTL_ADD, theirs, &event) != 0 ? errno : 0;
}

void server_close(struct server *server) {
    if (server->daemon) {
        server->ready = NULL;
        for (struct request *request = server->all; request; request = request->next)
            if (request->asleep)
                MHD_resume_connection(request->connection); /* or stopping aborts */
        MHD_stop_daemon(server->daemon);
        server->daemon = NULL;
    }
    if (server->watch >= 0) close(server->watch);
    server->watch = -1;
    free(server->spool);
    server->spool = NULL;
}
