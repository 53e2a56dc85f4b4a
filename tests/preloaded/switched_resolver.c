// Loaded before the C library: until a file exists no name can be resolved, and from then on every name is this
// machine's. Each look-up is noted in another file, with the time.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef int look_up(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    (void)node;
    FILE *notes = fopen(getenv("LOOK_UPS"), "ae");
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    fprintf(notes, "%ld.%09ld\n", (long)now.tv_sec, now.tv_nsec);
    fclose(notes);
    if (access(getenv("RESOLVABLE"), F_OK) != 0)
        return EAI_AGAIN;
    return ((look_up *)dlsym(RTLD_NEXT, "getaddrinfo"))("127.0.0.1", service, hints, result);
}
