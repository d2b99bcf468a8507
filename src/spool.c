#include "spool.h"
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int content_spool(struct content *content, const char *folder) {
    char *path;
    if (asprintf(&path, "%s/body-XXXXXX", folder) < 0) return ENOMEM;
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) {
        int error = errno;
        free(path);
        return error;
    }
    content->path = path;
    content->fd = fd;
    return 0;
}

int content_to_file(struct content *content, const char *folder) {
    struct content file = {.fd = -1};
    int error = content_spool(&file, folder);
    if (!error) error = os_write_all(file.fd, content->text, content->size);
    if (error) {
        content_discard(&file);
    } else {
        free(content->text);
        content->text = NULL;
        content->room = 0;
        content->path = file.path;
        content->fd = file.fd;
    }
    return error;
}

int content_add(struct content *content, const char *folder, size_t in_memory, const char *data,
                size_t size) {
    if (content->path || content->size + size > in_memory) {
        int error = content->path ? 0 : content_to_file(content, folder);
        if (!error) error = os_write_all(content->fd, data, size);
        if (error) return error;
    } else {
        if (content->size + size > content->room) {
            size_t room =
                content->room * 2 > content->size + size ? content->room * 2 : content->size + size;
            char *text = realloc(content->text, room);
            if (!text) return ENOMEM;
            content->text = text;
            content->room = room;
        }
        memcpy(content->text + content->size, data, size);
    }
    content->size += size;
    return 0;
}

int content_end(struct content *content) {
    int fd = content->fd;
    content->fd = -1;
    return fd >= 0 && close(fd) != 0 ? errno : 0;
}

void content_discard(struct content *content) {
    content_end(content);
    if (content->path) unlink(content->path);
    free(content->path);
    free(content->text);
    content->path = content->text = NULL;
    content->room = 0;
}
