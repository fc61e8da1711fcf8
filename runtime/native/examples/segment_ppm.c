/* A picture in, its labels out. From this folder, after make native:
 *
 *     cc -std=c99 -O2 segment_ppm.c -I../include -L../../../build/native -Wl,-rpath,$PWD/../../../build/native -lnerve -o segment_ppm
 *     ./segment_ppm ../../../bundles/tiny "zebra; grass" < picture.ppm > labels.pgm
 *
 * A PPM without comments is made by: ffmpeg -i picture.jpg picture.ppm
 * The names of the labels go to stderr; label 255 (65535 beyond 254 classes) means none. Ends with the code of the error.
 * ONNX Runtime is found as the system finds libraries, or at the path in NERVE_ONNXRUNTIME.
 */
#include <math.h>
#include <nerve/nerve.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const char *message, int code) {
    fprintf(stderr, "segment_ppm: %s\n", message);
    return code;
}

int main(int argc, char **argv) {
    nerve_params params;
    nerve_segmenter *segmenter = NULL;
    int width = 0, height = 0, depth = 0, code = NERVE_OK;
    if (argc != 3) return fail("usage: segment_ppm BUNDLE CLASSES < picture.ppm > labels.pgm", NERVE_USAGE);
    if (scanf("P6 %5d %5d %5d", &width, &height, &depth) != 3 || getchar() == EOF || depth != 255 || width < 1 ||
        width > 16384 || height < 1 || height > 16384)
        return fail("stdin is not a binary PPM (P6) of 8 bits, without comments, at most 16384 x 16384 pixels", NERVE_USAGE);

    size_t area = (size_t)width * (size_t)height;
    uint8_t *pixels = malloc(3 * area), *labels = malloc(2 * area);
    nerve_frame frame = {sizeof frame, pixels, height, width, 3 * (ptrdiff_t)width, NERVE_RGB, NAN, NULL};
    nerve_result result = {sizeof result, labels, 2 * area, NULL, 0, 0, 0, 0};
    nerve_params_init(&params, sizeof params);
    params.onnxruntime = getenv("NERVE_ONNXRUNTIME");

    if (pixels == NULL || labels == NULL)
        code = fail("memory ran out; use a smaller picture", NERVE_RESOURCE);
    else if (fread(pixels, 3, area, stdin) != area)
        code = fail("the picture ends too early", NERVE_USAGE);
    else if ((code = nerve_open(argv[1], &params, &segmenter)) != NERVE_OK ||
             (code = nerve_set_classes(segmenter, argv[2], NULL)) != NERVE_OK ||
             (code = nerve_segment(segmenter, &frame, &result)) != NERVE_OK)
        fail(nerve_last_error(), code);
    else {
        size_t bytes = nerve_label_bytes(segmenter);
        for (int label = 0; label < nerve_class_count(segmenter); ++label)
            fprintf(stderr, "%d %s\n", label, nerve_class_name(segmenter, label));
        printf("P5 %d %d %d\n", width, height, bytes == 1 ? 255 : 65535);
        for (size_t place = 0; place < area; ++place) {
            unsigned label = bytes == 1 ? labels[place] : ((uint16_t *)(void *)labels)[place];
            if (bytes == 2) putchar((int)(label >> 8)); /* PGM has the higher byte first */
            putchar((int)(label & 255));
        }
        if (fflush(stdout) != 0 || ferror(stdout)) code = fail("the labels cannot be written to stdout", NERVE_RESOURCE);
    }
    nerve_close(segmenter);
    free(pixels);
    free(labels);
    return code;
}
