/* measure OUT TIMES COMMAND...: runs a command so often and writes to OUT what all of it took:
 * seconds, user and system seconds, the peak of resident memory in KB, and the exit code of the one
 * that failed, or 0. A program of its own because a child counts the memory of the process that it
 * was forked from as its own. */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds(struct timeval t) {
    return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    double user = 0, system = 0, start = now();
    long peak = 0, blocks = 0; /* of 512 bytes */
    int code = 0;
    for (long times = strtol(argv[2], NULL, 10); times > 0 && code == 0; times--) {
        pid_t child;
        int status;
        struct rusage used;
        if (posix_spawnp(&child, argv[3], NULL, NULL, argv + 3, environ) != 0) {
            perror(argv[3]);
            return 2;
        }
        if (wait4(child, &status, 0, &used) != child) return 2;
        code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        user += seconds(used.ru_utime);
        system += seconds(used.ru_stime);
        blocks += used.ru_inblock;
        if (used.ru_maxrss > peak) peak = used.ru_maxrss;
    }
    double wall = now() - start;
    FILE *out = fopen(argv[1], "w");
    if (!out) {
        perror(argv[1]);
        return 2;
    }
    fprintf(out, "%.6f %.6f %.6f %ld %ld %d\n", wall, user, system, peak, blocks * 512, code);
    return fclose(out) ? 2 : 0;
}
