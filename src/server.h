/* The HTTP/1.1 server of the sandbox, without Lua: it spools request bodies, hands out complete
 * requests and sends replies, well or badly on purpose. httpd.c is its Lua face.
 *
 * libmicrohttpd runs in an external epoll loop, so descriptors above FD_SETSIZE are fine. A
 * connection is suspended from the moment its request is complete until the answer is due, and
 * while a reply with a rate waits for its next bytes.
 *
 * A client that keeps the server waiting is cut off: with what it has to send, or does not fetch of
 * its reply. It has `patience` seconds, of which every 1,000 bytes win back one, of the time that
 * the server has spent in server_take(): a caller that is long away does not count against it.
 *
 * A client that closes its sending side counts as gone: what it sent completely is still handed
 * out, but a reply that is waiting for its time is dropped.
 *
 * A request belongs to its connection until that ends, and to the caller from server_take() until
 * request_release(); the later of the two frees it. */
#ifndef OBATCH_SERVER_H
#define OBATCH_SERVER_H

#include "spool.h"
#include <netinet/in.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* A header (name in lower case) or a parameter of the query. */
struct pair {
    struct pair *next;
    size_t name_size, value_size;
    char text[]; /* name, value */
};

/* A part of a form: a file when filename is set, otherwise a text. */
struct part {
    struct part *next;
    char *name, *filename, *type;
    struct content content;
};

struct server {
    struct MHD_Daemon *daemon; /* NULL: closed */
    int watch; /* epoll: libmicrohttpd's own epoll descriptor, and the sockets of stalled requests
                */
    char *spool;
    uint64_t max_body;
    double patience; /* seconds */
    double attended; /* seconds spent in server_take() */
    double next_cut; /* when, by `attended`, the first client may have to be cut off */
    in_port_t port;
    struct client *clients;             /* every connection */
    struct request *all;                /* every request that has a connection */
    struct request *ready, **ready_end; /* complete and not yet taken, in order of completion */
};

struct request {
    struct server *server;             /* NULL when the connection is over */
    struct MHD_Connection *connection; /* the same */
    struct client *client;             /* the same */
    struct request *next, **link;      /* in server->all */
    struct request *next_ready;
    enum { RECEIVING, WAITING, ANSWERED } state;
    bool taken;  /* by the caller of server_take() */
    bool doomed; /* to be reset, not answered */
    bool asleep; /* suspended */
    double wake; /* when to go on; INFINITY: not by the clock */

    char *method, *path; /* path is percent-decoded */
    struct pair *headers, *query;
    struct content body;    /* of a form only the size */
    struct multipart *form; /* NULL: the body is no form */
    struct part *parts, *last_part;
    const char *form_error; /* NULL: parts is the whole form */
    unsigned int refusal;   /* the status the server itself answers with, once the body is over */
    char refusal_text[256];

    struct MHD_Response *response; /* until it is queued */
    unsigned int status;
};

struct answer {
    unsigned int status;
    const char *const *headers; /* name, value, name, value, ..., NULL */
    const char *body;           /* size bytes, copied; or, when fd is not -1: */
    int fd;                     /* size bytes of it from offset on; taken over in any case */
    off_t offset;
    size_t size;
    uint64_t cut; /* the connection is closed after so many bytes of the body */
    double delay; /* seconds before the first byte */
    double rate;  /* bytes per second; 0: no limit */
    bool drop;    /* reset the connection instead */
    bool stall;   /* never answer, and let go when the client does */
};

/* Listens. 0 or an errno; the server can be closed in any case, and more than once. */
int server_open(struct server *server, struct sockaddr *address, socklen_t size, const char *spool,
                uint64_t max_body, double patience);

/* Ends every connection at once, whatever is still to be sent on it. */
void server_close(struct server *server);

/* Waits for a complete request until `deadline`, a time of os_clock(), while all input and
 * output goes on. NULL when there was none in time or obatch_interrupted is set. */
struct request *server_take(struct server *server, double deadline);

/* Answers a request in state WAITING, by and by, in later calls of server_take(). 0, or ENOMEM, or
 * EINVAL for a header that libmicrohttpd refuses; after a failure the request is still WAITING. */
int request_answer(struct request *request, const struct answer *answer);

/* Moves the body, or the first file of a form, to path (on the file system of the spool folder). 0,
 * or ENODATA when there is none (any more), or another errno. */
int request_keep(struct request *request, const char *path);

/* The caller is done with it. A request that was not answered is reset. */
void request_release(struct request *request);

#endif
