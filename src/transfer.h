/* HTTP transfers on libcurl's multi interface, without Lua: http.c is the binding.
 *
 * A transfer is FLYING from transfer_launch() until client_turn() moves it to the client's finished
 * list. Whoever holds a Transfer calls transfer_release() on it, in any state and as often as it
 * likes; client_close() releases all that are in one of the two lists. */
#ifndef OBATCH_TRANSFER_H
#define OBATCH_TRANSFER_H

#include <curl/curl.h>
#include <stdbool.h>

/* Where a request goes, as libcurl's own parser reads the URL. */
typedef struct Place {
    bool https, loopback;
    char host[256], port[8];
} Place;

typedef struct Transfer {
    struct Client *client; /* while in one of its lists, else NULL */
    struct Transfer *next;
    enum { FINISHED, FLYING } state;
    CURL *easy;
    struct curl_slist *headers;
    curl_mime *form;
    struct Source *sources; /* files being sent */
    const char *method;
    Place place;
    char where[300]; /* "GET host:port", for messages */
    bool follow;
    int redirects; /* still allowed */
    bool fresh;    /* a new connection, and never repeated */
    bool sent;     /* libcurl was about to write the request to a connection */
    bool has_head; /* the final answer's headers are complete */
    char *to_file;
    curl_off_t resume_at; /* where a 206 answer goes on in to_file, else 0 */
    int out;              /* to_file once it is open, else -1 */
    char *body;
    size_t body_length, body_room;
    curl_off_t received, uploaded; /* bytes of the bodies */
    curl_off_t moved;              /* bytes of any kind, and when that last grew */
    double moved_at, deadline;
    double answer_timeout; /* seconds without a byte between the whole request and the answer */
    long status;
    const char *code; /* NULL, or why there is no complete answer */
    char *error;      /* its words; NULL when there was no memory for them */
    char curl_says[CURL_ERROR_SIZE];
} Transfer;

typedef struct Client {
    CURLM *multi; /* NULL when closed */
    Transfer *flying, *finished;
    char *user_agent;
    double connect_timeout, stall_timeout; /* seconds */
    double turned_at;                      /* when client_turn() last looked */
    bool allow_plain_http;
} Client;

/* NULL, or why nothing may be sent to the URL `text`. The complaint does not repeat it. */
const char *transfer_check_url(const Client *client, const char *text, Place *place);

/* Makes the handle, with everything set that is the same for all requests. */
CURLcode transfer_prepare(Transfer *t, const Client *client);

/* Open a file now and send it later, as the body or as a part of the form. A file that cannot be
 * sent is CURLE_READ_ERROR, with t->code and t->error set. */
CURLcode transfer_body_file(Transfer *t, const char *path);
CURLcode transfer_form_file(Transfer *t, curl_mimepart *part, const char *path);

/* `url` has been checked into t->place. `timeout` is in seconds and may be infinite. */
CURLcode transfer_launch(Transfer *t, Client *client, const char *url, double timeout);

/* The first failure of a transfer is the one that stays. */
void transfer_fail(Transfer *t, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Ends it, wherever it is, and frees all but what is known about it (code, error, status, sizes).
 */
void transfer_release(Transfer *t);

/* Lets libcurl do all it can do now without waiting, and enforces the timeouts. */
void client_turn(Client *client);

/* Idempotent. What has not been handed out ends as CANCELLED. */
void client_close(Client *client);

#endif
