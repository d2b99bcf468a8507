#include "reply.h"
#include "os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 64 * 1024 }; /* how much of a reply is read at a time */

/* What a reply's body is read from. Belongs to the MHD_Response. */
struct source {
    struct request *request;
    char *text; /* or fd from offset on */
    int fd;
    off_t offset;
    uint64_t end;   /* the connection is cut after so many bytes, when that is not the body's end */
    double rate;    /* bytes per second; 0: no limit */
    double started; /* when the first byte was asked for */
};

/* An MHD_ContentReaderCallback. */
static ssize_t read_source(void *context, uint64_t position, char *buffer, size_t room) {
    struct source *source = context;
    if (position >= source->end || source->request->doomed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (room > source->end - position) room = (size_t)(source->end - position);
    server_got_on(source->request->client, room);
    if (source->rate > 0) {
        double now = os_clock();
        if (source->started == 0) source->started = now;
        double due = (now - source->started) * source->rate - (double)position;
        if (due < 1) {
            /* Twenty steps a second, or byte by byte when that is slower. */
            double pause = source->rate > 20 ? 0.05 : (1 - due) / source->rate;
            source->request->wake = now + pause;
            source->request->asleep = true;
            MHD_suspend_connection(source->request->connection);
            return 0;
        }
        if (due < (double)room) room = (size_t)due;
    }
    if (source->text) {
        memcpy(buffer, source->text + position, room);
        return (ssize_t)room;
    }
    ssize_t count;
    do {
        count = pread(source->fd, buffer, room, source->offset + (off_t)position);
    } while (count < 0 && errno == EINTR);
    return count > 0 ? count : MHD_CONTENT_READER_END_WITH_ERROR; /* 0: the file has shrunk */
}

static void free_source(void *context) {
    struct source *source = context;
    if (source->fd >= 0) close(source->fd);
    free(source->text);
    free(source);
}

struct MHD_Response *reply_make(struct request *request, const struct answer *answer) {
    struct source *source = calloc(1, sizeof *source);
    char *text = answer->fd < 0 ? malloc(answer->size + 1) : NULL;
    struct MHD_Response *response = NULL;
    if (source && (text || answer->fd >= 0)) {
        source->request = request;
        source->text = text;
        source->fd = answer->fd;
        source->offset = answer->offset;
        source->end = answer->cut < answer->size ? answer->cut : answer->size;
        source->rate = answer->rate;
        if (text && answer->size > 0) memcpy(text, answer->body, answer->size);
        response = MHD_create_response_from_callback(answer->size, BLOCK, read_source, source,
                                                     free_source);
    }
    if (!response) {
        if (answer->fd >= 0) close(answer->fd);
        free(text);
        free(source);
        errno = ENOMEM;
        return NULL;
    }
    for (const char *const *header = answer->headers; *header; header += 2) {
        if (MHD_add_response_header(response, header[0], header[1]) == MHD_YES) continue;
        MHD_destroy_response(response);
        errno = EINVAL;
        return NULL;
    }
    return response;
}
