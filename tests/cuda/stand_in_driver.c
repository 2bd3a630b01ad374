/* Stands in for libcuda.so.1 where there is no GPU: memory is the host's, streams and events are nothing, and what a
   graph is made of goes to the standard error output. It computes nothing. What driver.py gives to cuda.bindings arrives
   here as it would at the driver. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long Pointer;
typedef struct {
    void *function;
    unsigned grid[3], block[3], shared;
    void **parameters, **extra;
    void *kernel, *context;
} Node;

static int live;
static void *const CONTEXT = (void *)0x77;
enum { INVALID = 1, OUT_OF_MEMORY = 2, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NOT_FOUND = 500 };

static int made(void **place) { *place = malloc(16); return *place ? 0 : OUT_OF_MEMORY; }
/* what must be given back is counted with memory */
static int kept(void **place) { live += 1; return made(place); }
static int ended(void *what) { live -= 1; fprintf(stderr, "live %d\n", live); free(what); return 0; }

int cuInit(unsigned flags) { return flags ? INVALID : 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    /* compute capability 9.0, multiprocessors, the most shared memory of a block */
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : attribute == 97 ? 232448 : -1;
    return *value < 0 ? INVALID : 0;
}
int cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Stand-in"); return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = CONTEXT; return 0; }
int cuCtxSetCurrent(void *context) { return context == CONTEXT ? 0 : INVALID_CONTEXT; }
int cuMemAlloc_v2(Pointer *pointer, size_t count) {
    *pointer = (Pointer)aligned_alloc(256, (count + 255) / 256 * 256);
    live += *pointer != 0;
    fprintf(stderr, "live %d\n", live);
    return *pointer ? 0 : OUT_OF_MEMORY;
}
int cuMemFree_v2(Pointer pointer) {
    live -= 1;
    fprintf(stderr, "live %d\n", live);
    free((void *)pointer);
    return 0;
}
int cuMemAllocAsync(Pointer *pointer, size_t count, void *stream) { return cuMemAlloc_v2(pointer, count); }
int cuMemFreeAsync(Pointer pointer, void *stream) { return cuMemFree_v2(pointer); }
int cuMemsetD8Async(Pointer to, unsigned char byte, size_t count, void *stream) {
    memset((void *)to, byte, count);
    return 0;
}
int cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t count, void *stream) {
    memcpy((void *)to, from, count);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t count, void *stream) {
    memcpy(to, (void *)from, count);
    return 0;
}
int cuModuleLoadData(void **module, const void *image) {
    return memcmp(image, "\177ELF", 4) ? INVALID_IMAGE : kept(module);
}
int cuModuleUnload(void *module) { return ended(module); }
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = strdup(name); return 0; }
int cuFuncSetAttribute(void *function, int attribute, int value) {
    fprintf(stderr, "allow %s %d\n", (char *)function, value);
    return attribute == 8 ? 0 : INVALID;
}
int cuStreamCreate(void **stream, unsigned flags) { return flags == 1 ? kept(stream) : INVALID; }
int cuStreamDestroy_v2(void *stream) { return ended(stream); }
int cuStreamSynchronize(void *stream) { return 0; }
int cuEventCreate(void **event, unsigned flags) { return flags ? INVALID : kept(event); }
int cuEventDestroy_v2(void *event) { return ended(event); }
int cuEventRecord(void *event, void *stream) { return event ? 0 : INVALID; }
int cuEventSynchronize(void *event) { return event ? 0 : INVALID; }
int cuEventElapsedTime(float *ms, void *first, void *last) { *ms = 1.5f; return first && last ? 0 : INVALID; }
int cuGraphCreate(void **graph, unsigned flags) { return made(graph); }
int cuGraphAddKernelNode_v2(void **node, void *graph, void *const *before, size_t count, const Node *n) {
    fprintf(stderr, "node %s %u %u %u, %u, %u: after %zu, first word %llx\n", (char *)n->function, n->grid[0], n->grid[1],
            n->grid[2], n->block[0] * n->block[1] * n->block[2], n->shared, count, *(Pointer *)n->parameters[0]);
    return count == 0 || before[0] ? made(node) : INVALID;
}
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) { return made(executable); }
int cuGraphExecKernelNodeSetParams_v2(void *executable, void *node, const Node *n) {
    fprintf(stderr, "again %s: first word %llx\n", (char *)n->function, *(Pointer *)n->parameters[0]);
    return 0;
}
int cuGraphLaunch(void *executable, void *stream) { fprintf(stderr, "launch\n"); return 0; }
int cuGraphExecDestroy(void *executable) { free(executable); return 0; }
int cuGraphDestroy(void *graph) { free(graph); return 0; }

int cuGetProcAddress_v2(const char *symbol, void **found, int version, uint64_t flags, int *status) {
    static void *self;
    static const char *const endings[] = {"_v2", "WithFlags", ""};
    char name[128];
    if (!self) self = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_NOW);
    *found = NULL;
    for (int i = 0; i < 3 && !*found; i++) {
        snprintf(name, sizeof name, "%s%s", symbol, endings[i]);
        *found = dlsym(self, name);
    }
    if (status) *status = !*found;
    return *found ? 0 : NOT_FOUND;
}
int cuGetProcAddress(const char *symbol, void **found, int version, uint64_t flags) {
    return cuGetProcAddress_v2(symbol, found, version, flags, NULL);
}
