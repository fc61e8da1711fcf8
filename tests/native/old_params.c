/* A program built with an older nerve.h, whose nerve_params ended after `keyframe_every`: old_params [ONNXRUNTIME BUNDLE]
 *
 * Prints the code of opening a bundle; 100 and more say which promise to older programs was broken. The struct lies at
 * the end of its allocation, so that an address sanitizer sees the first byte behind it that is read or written. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct old_params {
    size_t struct_size;
    const char *onnxruntime;
    const char *engine_cache;
    void (*on_warning)(void *user, const char *message);
    void *user;
    int32_t provider, device, threads, spinning, strict, readout, between, keyframe_every;
} old_params;

extern void nerve_params_init(old_params *params, size_t struct_size);
extern void nerve_params_video(old_params *params);
extern int nerve_open(const char *bundle, const old_params *params, void **segmenter);
extern const char *nerve_last_error(void);
extern void nerve_close(void *segmenter);

/* With `guarded`, bytes of our own follow that no call may change and that make no sense as options. */
static int broken_promise(old_params *params, unsigned char *behind, size_t guarded) {
    size_t i;
    memset(params, 0xee, sizeof *params + guarded);
    nerve_params_init(params, sizeof *params);
    if (params->struct_size != sizeof *params) return 100;
    if (params->onnxruntime != NULL || params->engine_cache != NULL) return 101;
    if (params->on_warning != NULL || params->user != NULL) return 102;
    if (params->provider != 0 || params->device != 0 || params->threads != 0 || params->spinning != 0) return 103;
    if (params->strict != 0 || params->readout != 0 || params->keyframe_every != 1) return 104;
    nerve_params_video(params);
    if (params->struct_size != sizeof *params || params->keyframe_every != 10) return 105;
    for (i = 0; i < guarded; ++i)
        if (behind[i] != 0xee) return 106;
    return 0;
}

static int try_out(const char *onnxruntime, const char *bundle, size_t guarded) {
    old_params *params = malloc(sizeof *params + guarded);
    void *segmenter = NULL;
    int code;
    if (params == NULL) return 107;
    code = broken_promise(params, (unsigned char *)(params + 1), guarded);
    if (code == 0) {
        params->onnxruntime = onnxruntime;
        code = nerve_open(bundle, params, &segmenter);
        if (code != 0) fprintf(stderr, "%s\n", nerve_last_error());
        nerve_close(segmenter);
    }
    free(params);
    return code;
}

int main(int count, char **words) {
    const char *onnxruntime = count == 3 ? words[1] : NULL;
    const char *bundle = count == 3 ? words[2] : "no-such-bundle";
    int alone = try_out(onnxruntime, bundle, 0);
    int followed = try_out(onnxruntime, bundle, 64);
    printf("%d %d\n", alone, followed);
    return 0;
}
