/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A file system without locks or links, for LD_PRELOAD: below the folder that LACKING_FOLDER names,
 * locks fail with the number in LACKING_LOCKS, and links with that in LACKING_LINKS.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_lacking(const char *path) {
    const char *folder = getenv("LACKING_FOLDER");
    return folder && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_open_there(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_lacking(path);
}

/* Number of the error, or 0. */
static int lacks(const char *what) {
    const char *number = getenv(what);
    return number ? atoi(number) : 0;
}

static int control(const char *name, int fd, int command, void *argument) {
    int (*next)(int, int, ...) = dlsym(RTLD_NEXT, name);
    int is_lock = command == F_GETLK || command == F_SETLK || command == F_SETLKW;
    if (is_lock && lacks("LACKING_LOCKS") && is_open_there(fd)) {
        errno = lacks("LACKING_LOCKS");
        return -1;
    }
    return next(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return control("fcntl", fd, command, argument);
}

int fcntl64(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return control("fcntl64", fd, command, argument);
}

int flock(int fd, int operation) {
    int (*next)(int, int) = dlsym(RTLD_NEXT, "flock");
    if (lacks("LACKING_LOCKS") && is_open_there(fd)) {
        errno = lacks("LACKING_LOCKS");
        return -1;
    }
    return next(fd, operation);
}

int symlink(const char *target, const char *path) {
    int (*next)(const char *, const char *) = dlsym(RTLD_NEXT, "symlink");
    if (lacks("LACKING_LINKS") && is_lacking(path)) {
        errno = lacks("LACKING_LINKS");
        return -1;
    }
    return next(target, path);
}

int link(const char *target, const char *path) {
    int (*next)(const char *, const char *) = dlsym(RTLD_NEXT, "link");
    if (lacks("LACKING_LINKS") && is_lacking(path)) {
        errno = lacks("LACKING_LINKS");
        return -1;
    }
    return next(target, path);
}
