/* usage: what a process has used so far, children and threads included; and what the time is.

   It knows Linux's clocks and /proc, and no network. A counter that cannot be read ends the program:
   there is no figure without it.
*/
#ifndef BENCH_USAGE_H
#define BENCH_USAGE_H

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef uint64_t ns_t;
#define MS 1000000ull
#define SECOND (1000 * MS)

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static ns_t clock_ns(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t)) die("clock_gettime: %s", strerror(errno));
    return (ns_t)t.tv_sec * SECOND + (ns_t)t.tv_nsec;
}

static ns_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

struct usage {
    ns_t run, wait; /* on a core, and waiting for one */
    uint64_t rss;   /* bytes */
    int processes, threads;
};

/* The clock is the sum of all threads' schedstat and of those that have ended, which schedstat
   forgets; the waiting stands in schedstat only. */
static void usage_of_threads(struct usage *u, int pid) {
    char path[512];
    clockid_t clock;
    if (clock_getcpuclockid(pid, &clock)) die("the relay (pid %d) is gone", pid);
    u->run += clock_ns(clock);
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *threads = opendir(path);
    if (!threads) die("%s: %s", path, strerror(errno));
    for (struct dirent *each; (each = readdir(threads));) {
        if (!isdigit((unsigned char)each->d_name[0])) continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, each->d_name);
        FILE *file = fopen(path, "r");
        unsigned long long run, wait;
        if (file && fscanf(file, "%llu %llu", &run, &wait) == 2) u->wait += wait, u->threads++;
        if (file) fclose(file);
    }
    closedir(threads);
}

static uint64_t rss_of(int pid) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid); /* exact, which statm is not */
    FILE *file = fopen(path, "r");
    unsigned long kb = 0;
    if (!file) die("%s: %s", path, strerror(errno));
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "Rss: %lu kB", &kb) == 1) break;
    fclose(file);
    return (uint64_t)kb * 1024;
}

/* With its children, whichever thread has started them: one process per core counts as one relay. */
static void usage_add(struct usage *u, int pid, bool with_rss) {
    char path[512];
    u->processes++;
    usage_of_threads(u, pid);
    if (with_rss) u->rss += rss_of(pid);
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *threads = opendir(path);
    if (!threads) die("%s: %s", path, strerror(errno));
    for (struct dirent *each; (each = readdir(threads));) {
        if (!isdigit((unsigned char)each->d_name[0])) continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/children", pid, each->d_name);
        FILE *file = fopen(path, "r");
        for (int child; file && fscanf(file, "%d", &child) == 1;) usage_add(u, child, with_rss);
        if (file) fclose(file);
    }
    closedir(threads);
}

static struct usage usage_of(int pid, bool with_rss) {
    struct usage u = {0};
    usage_add(&u, pid, with_rss);
    return u;
}

#endif
