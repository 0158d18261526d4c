# The article's program, as written for Keras. `test_keras.py` runs it with the first three lines
# changed to minires' and nothing else.
from tensorflow.keras.layers import (
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    Input,
    MaxPooling2D,
    add,
)
from tensorflow.keras.models import Model


def residual_block(x, filters, kernel_size=(3, 3)):
    shortcut = x
    x = Conv2D(filters, kernel_size, padding='same')(x)
    x = BatchNormalization()(x)
    x = Activation('relu')(x)
    x = Conv2D(filters, kernel_size, padding='same')(x)
    x = BatchNormalization()(x)
    x = add([x, shortcut])
    return x


def build_resnet(input_shape, num_classes, num_blocks=18, filters=64):
    inputs = Input(shape=input_shape)
    x = Conv2D(filters, (7, 7), strides=(2, 2), padding='same')(inputs)
    x = BatchNormalization()(x)
    x = Activation('relu')(x)
    x = MaxPooling2D((3, 3), strides=(2, 2), padding='same')(x)
    for _ in range(num_blocks):
        x = residual_block(x, filters)
    x = AveragePooling2D((4, 4), strides=(1, 1), padding='valid')(x)
    x = Flatten()(x)
    outputs = Dense(num_classes, activation='softmax')(x)
    return Model(inputs=inputs, outputs=outputs)


model = build_resnet(input_shape, num_classes)
model.compile(optimizer='adam', loss='categorical_crossentropy', metrics=['accuracy'])
model.summary()
history = model.fit(x_train, y_train, epochs=epochs, batch_size=32,
                    validation_data=(x_test, y_test))
loss, accuracy = model.evaluate(x_test, y_test)
probabilities = model.predict(x_test)
