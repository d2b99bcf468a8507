#include "transfer.h"
#include "os.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BODY_MAX = 64 * 1024 * 1024,  /* a body kept in memory; beyond it the transfer fails */
    ERROR_BODY_MAX = 1024 * 1024, /* what is kept of an answer that to_file does not take */
    BUFFER = 256 * 1024,          /* of a transfer, in each direction; beyond it little is gained */
    /* Seconds: a peer that is gone without a word (a laptop that slept, a router that forgot) is
     * noticed after the sum of the first and nine times the second, also where nothing is sent. */
    KEEPALIVE_IDLE = 30,
    KEEPALIVE_INTERVAL = 10,
};

/* Nobody turned the client for so many seconds: it was stopped or busy, and silence in that time is
 * none of the connection's. */
static const double LONGEST_TURN = 1;

/* A file that is being sent. It is opened at once, so that a wrong name is known at once. */
typedef struct Source {
    struct Source *next;
    Transfer *transfer;
    int fd;
    curl_off_t size, offset;
    char *path;
} Source;

void transfer_fail(Transfer *t, const char *code, const char *format, ...) {
    if (t->code) return;
    t->code = code;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&t->error, format, arguments) < 0) t->error = NULL;
    va_end(arguments);
}

static void fail_errno(Transfer *t, const char *path, int error) {
    const char *name = strerrorname_np(error);
    transfer_fail(t, name ? name : "EUNKNOWN", "%s: %s", path, strerror(error));
}

/* ---- Addresses ---- */

static bool is_loopback(const char *host) {
    struct in_addr v4;
    struct in6_addr v6;
    if (strcasecmp(host, "localhost") == 0) return true; /* libcurl never asks DNS for it */
    if (inet_pton(AF_INET, host, &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
    char bare[64];
    size_t length = strlen(host);
    if (host[0] != '[' || length >= sizeof bare) return false;
    memcpy(bare, host + 1, length - 2);
    bare[length - 2] = '\0';
    return inet_pton(AF_INET6, bare, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool url_part(CURLU *url, CURLUPart part, unsigned flags, char *to, size_t room) {
    char *text = NULL;
    if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return false;
    int length = snprintf(to, room, "%s", text);
    curl_free(text);
    return length >= 0 && (size_t)length < room;
}

const char *transfer_check_url(const Client *client, const char *text, Place *place) {
    CURLU *url = curl_url();
    if (!url) return "not enough memory";
    char scheme[8], *secret = NULL;
    const char *complaint = NULL;
    if (curl_url_set(url, CURLUPART_URL, text, 0) != CURLUE_OK ||
        !url_part(url, CURLUPART_SCHEME, 0, scheme, sizeof scheme) ||
        !url_part(url, CURLUPART_HOST, 0, place->host, sizeof place->host) ||
        !url_part(url, CURLUPART_PORT, CURLU_DEFAULT_PORT, place->port, sizeof place->port) ||
        (strcmp(scheme, "https") != 0 && strcmp(scheme, "http") != 0)) {
        complaint = "not a URL of the form https://host/path";
    } else if (curl_url_get(url, CURLUPART_USER, &secret, 0) == CURLUE_OK ||
               curl_url_get(url, CURLUPART_PASSWORD, &secret, 0) == CURLUE_OK) {
        complaint = "a URL with a user name or password in it; send a header instead";
    } else {
        place->https = strcmp(scheme, "https") == 0;
        place->loopback = is_loopback(place->host);
        if (!place->https && !place->loopback && !client->allow_plain_http)
            complaint = "plain http would send everything in the clear; use https, "
                        "or allow plain http";
    }
    curl_free(secret);
    curl_url_cleanup(url);
    return complaint;
}

/* Makes text that libcurl or a server chose fit to be shown: no control characters, and no longer
 * word of a header that the caller sent (a server may echo the key). */
static void clean(char *text, const struct curl_slist *headers) {
    for (char *p = text; *p; p++)
        if (*p < ' ' || *p > '~') *p = '?';
    for (; headers; headers = headers->next) {
        const char *word = headers->data + strcspn(headers->data, ":");
        while (*(word += strspn(word, ": "))) {
            size_t length = strcspn(word, " ");
            for (char *p = text; length >= 8 && (p = memmem(p, strlen(p), word, length));) {
                memcpy(p, "***", 3);
                memmove(p + 3, p + length, strlen(p + length) + 1);
            }
            word += length;
        }
    }
}

/* Aims the handle at `url`, whose place has been checked. A proxy sees nothing that is meant for
 * this machine, whatever the environment says; elsewhere libcurl reads the environment itself. */
static CURLcode aim(Transfer *t, const char *url) {
    snprintf(t->where, sizeof t->where, "%s %s:%s", t->method, t->place.host, t->place.port);
    clean(t->where, t->headers);
    CURLcode result = curl_easy_setopt(t->easy, CURLOPT_URL, url);
    if (result != CURLE_OK) return result;
    return curl_easy_setopt(t->easy, CURLOPT_PROXY, t->place.loopback ? "" : NULL);
}

/* ---- What libcurl calls ---- */

/* Called when the connection stands (TLS included) and before the request is written to it; again
 * when libcurl, silently, repeats a request on a new connection because a reused one was dead. */
static int on_request(void *data, char *remote_ip, char *local_ip, int remote_port,
                      int local_port) {
    (void)remote_ip, (void)local_ip, (void)remote_port, (void)local_port;
    Transfer *t = data;
    if (t->sent && t->fresh) return CURL_PREREQFUNC_ABORT;
    t->sent = true;
    return CURL_PREREQFUNC_OK;
}

static size_t on_read(char *buffer, size_t size, size_t count, void *data) {
    Source *s = data;
    size_t want = size * count;
    if ((curl_off_t)want > s->size - s->offset) want = (size_t)(s->size - s->offset);
    if (want == 0) return 0;
    ssize_t got;
    do got = pread(s->fd, buffer, want, s->offset);
    while (got < 0 && errno == EINTR);
    if (got > 0) {
        s->offset += got;
        return (size_t)got;
    }
    if (got < 0)
        fail_errno(s->transfer, s->path, errno);
    else
        transfer_fail(s->transfer, "EIO", "%s: became shorter while it was being sent", s->path);
    return CURL_READFUNC_ABORT;
}

static int on_seek(void *data, curl_off_t offset, int origin) {
    Source *s = data;
    if (origin != SEEK_SET || offset < 0 || offset > s->size) return CURL_SEEKFUNC_FAIL;
    s->offset = offset;
    return CURL_SEEKFUNC_OK;
}

static long status_of(Transfer *t) {
    long status = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

static bool is_success(Transfer *t) {
    long status = status_of(t);
    return status >= 200 && status < 300;
}

/* Only looks for the empty line that ends the headers of the final answer: to libcurl, a connection
 * that is closed in the middle of them is a complete answer without a body. */
static size_t on_header(char *line, size_t size, size_t count, void *user) {
    Transfer *t = user;
    if ((line[0] == '\r' || line[0] == '\n') && status_of(t) >= 200) t->has_head = true;
    return size * count;
}

/* Opens what an earlier transfer has left, to go on behind it. */
static bool open_rest(Transfer *t) {
    struct stat about;
    t->out = open(t->to_file, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (t->out < 0 || fstat(t->out, &about) != 0 || lseek(t->out, t->resume_at, SEEK_SET) < 0)
        fail_errno(t, t->to_file, errno);
    else if (!S_ISREG(about.st_mode) || about.st_nlink != 1 || about.st_size != t->resume_at)
        transfer_fail(t, "ESTALE", "%s: is not the file of %lld bytes that is to be gone on with",
                      t->to_file, (long long)t->resume_at);
    return !t->code;
}

static bool open_out(Transfer *t) {
    if (t->out >= 0) return true;
    if (t->resume_at > 0 && status_of(t) == 206) return open_rest(t);
    int error = os_create(t->to_file, &t->out);
    if (error == EEXIST) { /* a device takes it as it is */
        t->out = open(t->to_file, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
        error = t->out < 0 ? errno : 0;
    }
    if (error) fail_errno(t, t->to_file, error);
    return !error;
}

static size_t on_body(char *data, size_t size, size_t count, void *user) {
    Transfer *t = user;
    size_t length = size * count;
    t->received += (curl_off_t)length;
    if (t->to_file && is_success(t)) {
        if (!open_out(t)) return CURL_WRITEFUNC_ERROR;
        int error = os_write_all(t->out, data, length);
        if (!error) return length;
        fail_errno(t, t->to_file, error);
        return CURL_WRITEFUNC_ERROR;
    }
    size_t keep = length;
    if (t->to_file) {
        if (keep > ERROR_BODY_MAX - t->body_length) keep = ERROR_BODY_MAX - t->body_length;
    } else if (keep > BODY_MAX - t->body_length) {
        transfer_fail(t, "TOO_BIG", "%s: the answer is over %d bytes; send it to a file", t->where,
                      BODY_MAX);
        return CURL_WRITEFUNC_ERROR;
    }
    if (t->body_length + keep > t->body_room) {
        size_t room = 2 * (t->body_length + keep);
        char *body = realloc(t->body, room);
        if (!body) {
            fail_errno(t, t->where, ENOMEM);
            return CURL_WRITEFUNC_ERROR;
        }
        t->body = body;
        t->body_room = room;
    }
    if (keep) memcpy(t->body + t->body_length, data, keep);
    t->body_length += keep;
    return length;
}

/* ---- Setting up ---- */

CURLcode transfer_prepare(Transfer *t, const Client *client) {
    CURL *easy = t->easy = curl_easy_init();
    if (!easy) return CURLE_OUT_OF_MEMORY;
    const char *bundle = getenv("CURL_CA_BUNDLE");
    if (!bundle || !*bundle) bundle = getenv("SSL_CERT_FILE");
    double wait = client->connect_timeout < 1e6 ? client->connect_timeout : 1e6;

    CURLcode first = CURLE_OK, result;
#define SET(option, value)                                                                         \
    if ((result = curl_easy_setopt(easy, option, value)) != CURLE_OK && !first) first = result
    if (bundle && *bundle) {
        SET(CURLOPT_CAINFO, bundle);
        SET(CURLOPT_PROXY_CAINFO, bundle);
    }
    SET(CURLOPT_SSL_VERIFYPEER, 1L); /* the defaults, and there is no way to change them */
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_PATH_AS_IS, 1L); /* an id of ".." must not lead to another path */
    /* With HTTP/2, one lost connection takes every transfer on it along, and libcurl silently
     * repeats a refused stream. */
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)(wait * 1000) + 1);
    SET(CURLOPT_USERAGENT, client->user_agent);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_TCP_KEEPIDLE, (long)KEEPALIVE_IDLE);
    SET(CURLOPT_TCP_KEEPINTVL, (long)KEEPALIVE_INTERVAL);
    SET(CURLOPT_QUICK_EXIT, 1L); /* do not wait for a resolver thread that nobody needs any more */
    SET(CURLOPT_BUFFERSIZE, (long)BUFFER);
    SET(CURLOPT_UPLOAD_BUFFERSIZE, (long)BUFFER);
    SET(CURLOPT_FRESH_CONNECT, (long)t->fresh);
    SET(CURLOPT_FORBID_REUSE, (long)t->fresh);
    SET(CURLOPT_PREREQFUNCTION, on_request);
    SET(CURLOPT_PREREQDATA, t);
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, t);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, t);
    SET(CURLOPT_ERRORBUFFER, t->curl_says);
    SET(CURLOPT_PRIVATE, t);
#undef SET
    return first;
}

/* NULL when the file cannot be sent; then t->code says why. */
static Source *open_source(Transfer *t, const char *path) {
    Source *s = malloc(sizeof *s);
    if (s) *s = (Source){.next = t->sources, .transfer = t, .fd = -1, .path = strdup(path)};
    if (!s || !s->path) {
        fail_errno(t, path, ENOMEM);
        free(s);
        return NULL;
    }
    t->sources = s;
    struct stat about;
    s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO would block here */
    if (s->fd < 0 || fstat(s->fd, &about) != 0) {
        fail_errno(t, path, errno);
        return NULL;
    }
    if (!S_ISREG(about.st_mode)) {
        transfer_fail(t, S_ISDIR(about.st_mode) ? "EISDIR" : "EINVAL", "%s: not a regular file",
                      path);
        return NULL;
    }
    s->size = about.st_size;
    return s;
}

CURLcode transfer_body_file(Transfer *t, const char *path) {
    Source *s = open_source(t, path);
    if (!s) return CURLE_READ_ERROR;
    curl_easy_setopt(t->easy, CURLOPT_POST, 1L);
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, s->size);
    curl_easy_setopt(t->easy, CURLOPT_READFUNCTION, on_read);
    curl_easy_setopt(t->easy, CURLOPT_READDATA, s);
    curl_easy_setopt(t->easy, CURLOPT_SEEKFUNCTION, on_seek);
    return curl_easy_setopt(t->easy, CURLOPT_SEEKDATA, s);
}

CURLcode transfer_form_file(Transfer *t, curl_mimepart *part, const char *path) {
    Source *s = open_source(t, path);
    return s ? curl_mime_data_cb(part, s->size, on_read, on_seek, NULL, s) : CURLE_READ_ERROR;
}

CURLcode transfer_launch(Transfer *t, Client *client, const char *url, double timeout) {
    CURLcode result = aim(t, url);
    if (result != CURLE_OK) return result;
    if (curl_multi_add_handle(client->multi, t->easy) != CURLM_OK) return CURLE_OUT_OF_MEMORY;
    t->client = client;
    t->state = FLYING;
    t->next = client->flying;
    client->flying = t;
    t->moved_at = os_clock();
    t->deadline = t->moved_at + timeout;
    return CURLE_OK;
}

/* ---- Landing ---- */

static bool is_tls(CURLcode result) {
    switch (result) {
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_CLIENTCERT:
    case CURLE_SSL_ENGINE_NOTFOUND:
    case CURLE_SSL_ENGINE_SETFAILED:
    case CURLE_SSL_ENGINE_INITFAILED:
        return true;
    default:
        return false;
    }
}

/* What a libcurl result means to the caller. Before the request was handed to a connection it is
 * one of the three codes that promise "never sent"; afterwards it never is. */
static const char *code_of(const Transfer *t, CURLcode result) {
    if (result == CURLE_OUT_OF_MEMORY) return "ENOMEM";
    if (!t->sent) {
        if (result == CURLE_COULDNT_RESOLVE_HOST || result == CURLE_COULDNT_RESOLVE_PROXY)
            return "DNS";
        return is_tls(result) ? "TLS" : "CONNECT";
    }
    switch (result) {
    case CURLE_OPERATION_TIMEDOUT: /* of the reconnect when libcurl repeats a harmless request */
        return "TIMEOUT";
    case CURLE_UNSUPPORTED_PROTOCOL: /* an answer without a status line ("HTTP/0.9") */
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
        return "PROTOCOL";
    case CURLE_RECV_ERROR: /* has no code of its own for bad chunks */
        return strstr(t->curl_says, "chunk") ? "PROTOCOL" : "CLOSED";
    default:
        return "CLOSED";
    }
}

static void explain(Transfer *t, CURLcode result) {
    const char *code = code_of(t, result);
    char words[CURL_ERROR_SIZE];
    snprintf(words, sizeof words, "%s",
             t->curl_says[0] ? t->curl_says : curl_easy_strerror(result));
    clean(words, t->headers);
    const char *remedy = "";
    if (strcmp(code, "TLS") == 0)
        remedy = " (CURL_CA_BUNDLE can name a file of certificates to trust)";
    transfer_fail(t, code, "%s: %s%s", t->where, words, remedy);
}

/* Sends a GET or HEAD on to where the answer points. True: t is in flight again. Another origin
 * gets none of the caller's headers, for any of them may be a credential; libcurl's own redirects
 * would hold back only Authorization and Cookie. */
static bool redirect(Transfer *t) {
    long status = status_of(t);
    char *url = NULL;
    curl_easy_getinfo(t->easy, CURLINFO_REDIRECT_URL, &url);
    if (!url || (status > 303 && status != 307 && status != 308)) return false;

    Place next;
    const char *complaint = transfer_check_url(t->client, url, &next);
    if (t->redirects == 0)
        complaint = "too many redirects";
    else if (!complaint && t->place.https && !next.https)
        complaint = "it leads from https to plain http";
    if (complaint) {
        transfer_fail(t, "REDIRECT", "%s: redirect refused: %s", t->where, complaint);
        return false;
    }
    t->redirects--;
    CURLcode result = CURLE_OK;
    if (next.https != t->place.https || strcasecmp(next.host, t->place.host) != 0 ||
        strcmp(next.port, t->place.port) != 0)
        result = curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, NULL);
    t->place = next;
    if (result == CURLE_OK) result = aim(t, url);
    if (result != CURLE_OK || curl_multi_add_handle(t->client->multi, t->easy) != CURLM_OK) {
        fail_errno(t, t->where, ENOMEM);
        return false;
    }
    t->sent = t->has_head = false;
    t->received = t->uploaded = t->moved = 0;
    t->body_length = 0;
    t->curl_says[0] = '\0';
    return true;
}

static void unlink_from(Transfer **list, const Transfer *t) {
    while (*list != t) list = &(*list)->next;
    *list = t->next;
}

/* libcurl is done with t, or we are: it goes to the finished ones, unless it is redirected. */
static void land(Transfer *t, CURLcode result) {
    Client *client = t->client;
    curl_easy_getinfo(t->easy, CURLINFO_SIZE_UPLOAD_T, &t->uploaded);
    curl_multi_remove_handle(client->multi, t->easy);
    if (result == CURLE_OK && !t->has_head) result = CURLE_GOT_NOTHING;
    if (result == CURLE_OK && t->follow && redirect(t)) return;

    if (result != CURLE_OK) explain(t, result);
    t->status = status_of(t);
    if (!t->code && t->to_file && is_success(t)) open_out(t);
    if (t->out >= 0 && close(t->out) != 0) fail_errno(t, t->to_file, errno);
    t->out = -1;

    unlink_from(&client->flying, t);
    Transfer **link = &client->finished;
    while (*link) link = &(*link)->next;
    *link = t;
    t->next = NULL;
    t->state = FINISHED;
}

/* Whether libcurl has taken the whole body. Its last part may still be on its way. */
static bool all_taken(const Transfer *t) {
    for (const Source *s = t->sources; s; s = s->next)
        if (s->offset < s->size) return false;
    return true;
}

/* libcurl's own low-speed limit counts whole seconds and takes one byte in two seconds for none. */
static void enforce_clocks(Client *client) {
    double time = os_clock(), unseen = time - client->turned_at;
    client->turned_at = time;
    if (unseen < LONGEST_TURN) unseen = 0;
    for (Transfer *t = client->flying, *next; t; t = next) {
        next = t->next;
        t->moved_at = t->moved_at + unseen < time ? t->moved_at + unseen : time;
        curl_off_t received = 0;
        long head = 0;
        curl_easy_getinfo(t->easy, CURLINFO_SIZE_UPLOAD_T, &t->uploaded);
        curl_easy_getinfo(t->easy, CURLINFO_SIZE_DOWNLOAD_T, &received);
        curl_easy_getinfo(t->easy, CURLINFO_HEADER_SIZE, &head);
        if (!t->sent || t->moved != t->uploaded + received + head) {
            t->moved = t->uploaded + received + head; /* until sent, the connect timeout watches */
            t->moved_at = time;
        }
        bool waits = t->sent && !t->has_head && all_taken(t);
        double most = waits ? t->answer_timeout : client->stall_timeout;
        bool stalled = time - t->moved_at >= most;
        if (!stalled && time < t->deadline) continue;
        transfer_fail(t, "TIMEOUT", "%s: %s", t->where,
                      stalled && waits ? "no answer within the answer timeout"
                      : stalled        ? "nothing moved for the stall timeout"
                                       : "not complete within the timeout");
        land(t, CURLE_OPERATION_TIMEDOUT);
    }
}

void client_turn(Client *client) {
    int running, left;
    curl_multi_perform(client->multi, &running);
    for (CURLMsg *m; (m = curl_multi_info_read(client->multi, &left));) {
        char *t = NULL;
        CURLcode result = m->data.result; /* m dies with curl_multi_remove_handle */
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
        land((Transfer *)(void *)t, result);
    }
    enforce_clocks(client);
}

void transfer_release(Transfer *t) {
    if (t->client) {
        unlink_from(t->state == FLYING ? &t->client->flying : &t->client->finished, t);
        if (t->state == FLYING) curl_multi_remove_handle(t->client->multi, t->easy);
        t->client = NULL;
    }
    t->state = FINISHED;
    curl_easy_cleanup(t->easy);
    t->easy = NULL;
    curl_mime_free(t->form);
    t->form = NULL;
    curl_slist_free_all(t->headers);
    t->headers = NULL;
    while (t->sources) {
        Source *s = t->sources;
        t->sources = s->next;
        if (s->fd >= 0) close(s->fd);
        free(s->path);
        free(s);
    }
    if (t->out >= 0) close(t->out);
    t->out = -1;
    free(t->to_file);
    t->to_file = NULL;
    free(t->body);
    t->body = NULL;
    t->body_length = t->body_room = 0;
}

void client_close(Client *client) {
    if (!client->multi) return;
    for (Transfer *t; (t = client->flying ? client->flying : client->finished);) {
        transfer_fail(t, "CANCELLED", "%s: cancelled", t->where);
        transfer_release(t);
    }
    curl_multi_cleanup(client->multi);
    client->multi = NULL;
    free(client->user_agent);
    client->user_agent = NULL;
}
